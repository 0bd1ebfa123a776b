//! Indexes waiting for attention, each at most once, in order. Never grows.

use std::collections::VecDeque;

/// A queue of connection indexes below a fixed maximum.
#[derive(Debug)]
pub struct Fifo {
    queue: VecDeque<u32>,
    listed: Box<[bool]>,
}

impl Fifo {
    /// For indexes below `indexes_max`.
    pub fn new(indexes_max: usize) -> Fifo {
        Fifo { queue: VecDeque::with_capacity(indexes_max), listed: vec![false; indexes_max].into() }
    }

    /// Adds `index` at the back unless it is there already.
    pub fn push(&mut self, index: u32) {
        if !std::mem::replace(&mut self.listed[index as usize], true) {
            self.queue.push_back(index);
        }
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<u32> {
        let index = self.queue.pop_front()?;
        self.listed[index as usize] = false;
        Some(index)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
