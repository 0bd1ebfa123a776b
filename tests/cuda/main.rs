//! The CUDA engine's host layer, with a program written by hand: slots, graphs, permits, sleep, faults. On the emulator, or with `GAVEL_CUDA=real` on
//! a GPU.
#![allow(clippy::unwrap_used)]

#[path = "../support/emulator.rs"]
mod emulator;
#[path = "../support/mod.rs"]
mod support;

mod allocator;
mod batches;
mod faults;
mod measure;
mod processes;
mod rig;
mod serving;
mod sharing;
