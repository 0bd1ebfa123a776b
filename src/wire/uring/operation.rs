//! What a completion is about: kind, index and generation in the 64 bits that the kernel carries along.

use crate::wire::ConnectionId;

/// An operation under way in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Receive of a connection, multishot or single.
    Receive(ConnectionId),
    /// Send of a connection.
    Send(ConnectionId),
    /// A cancel; its own outcome does not matter, the cancelled operation completes by itself.
    Cancel,
    /// The timer of a sleep.
    Timer,
    /// A change of the timer.
    TimerChange,
}

impl Operation {
    /// As `user_data`: kind (4 bits), index (28), generation (32).
    pub fn pack(self) -> u64 {
        let of = |kind: u64, id: ConnectionId| kind << 60 | u64::from(id.index) << 32 | u64::from(id.generation);
        match self {
            Operation::Receive(id) => of(1, id),
            Operation::Send(id) => of(2, id),
            Operation::Cancel => 3 << 60,
            Operation::Timer => 4 << 60,
            Operation::TimerChange => 5 << 60,
        }
    }

    /// From `user_data`; `None` if it is none of ours.
    pub fn unpack(user_data: u64) -> Option<Operation> {
        let id = ConnectionId { index: (user_data >> 32) as u32 & (u32::MAX >> 4), generation: user_data as u32 };
        match user_data >> 60 {
            1 => Some(Operation::Receive(id)),
            2 => Some(Operation::Send(id)),
            3 => Some(Operation::Cancel),
            4 => Some(Operation::Timer),
            5 => Some(Operation::TimerChange),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        for id in [(0, 0), (1, u32::MAX), ((1 << 28) - 1, 7)].map(|(index, generation)| ConnectionId { index, generation }) {
            for operation in [Operation::Receive(id), Operation::Send(id), Operation::Cancel, Operation::Timer, Operation::TimerChange] {
                assert_eq!(Operation::unpack(operation.pack()), Some(operation));
            }
        }
        assert_eq!(Operation::unpack(0), None);
    }
}
