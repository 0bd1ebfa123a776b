//! News for a shard: a bounded single-producer ring and a wake. One mailbox per thread that has something to say (the acceptor deals sockets, the
//! control thread publishes models and drains), so that no sender ever meets another; the shard looks into each of them.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::wire::Waker;

/// A mailbox for `capacity` letters to the shard that `waker` wakes.
pub fn mailbox<T>(capacity: usize, waker: Waker) -> (MailSender<T>, MailReceiver<T>) {
    let (producer, consumer) = RingBuffer::new(capacity);
    (MailSender { ring: producer, waker }, MailReceiver { ring: consumer })
}

/// The end of the thread that has news.
pub struct MailSender<T> {
    ring: Producer<T>,
    waker: Waker,
}

/// The shard's end.
pub struct MailReceiver<T> {
    ring: Consumer<T>,
}

/// Why a letter came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// The shard has not read `capacity` letters yet: try later.
    Full,
    /// The shard is gone.
    Gone,
}

impl<T> MailSender<T> {
    /// Puts a letter into the box and wakes the shard. Gives the letter back if there is no room or no shard any more.
    pub fn send(&mut self, letter: T) -> Result<(), (Undelivered, T)> {
        if self.ring.is_abandoned() {
            return Err((Undelivered::Gone, letter));
        }
        self.ring.push(letter).map_err(|rtrb::PushError::Full(letter)| (Undelivered::Full, letter))?;
        self.waker.wake();
        Ok(())
    }
}

impl<T> MailReceiver<T> {
    /// The oldest letter. Cheap when there is none (one read of a line that only a sender writes).
    pub fn receive(&mut self) -> Option<T> {
        self.ring.pop().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_in_order_and_the_box_is_bounded() {
        let (mut sender, mut receiver) = mailbox(2, Waker::new().expect("eventfd"));
        assert_eq!(sender.send(1), Ok(()));
        assert_eq!(sender.send(2), Ok(()));
        assert_eq!(sender.send(3), Err((Undelivered::Full, 3)));
        assert_eq!(receiver.receive(), Some(1));
        assert_eq!(sender.send(3), Ok(()));
        assert_eq!((receiver.receive(), receiver.receive(), receiver.receive()), (Some(2), Some(3), None));
        drop(receiver);
        assert_eq!(sender.send(4), Err((Undelivered::Gone, 4)));
    }
}
