//! The CPU engine: embedded, works on any machine, fastest with AVX-512.
//!
//! A model becomes a [`Program`] once per process: constants computed, weights packed for the instruction set, every value given its memory
//! (`plan`). A [`CpuEngine`] per shard runs programs over slots: first the contexts' steps over tiles of context rows, then the candidates'
//! steps over tiles of candidate rows, each tile carried through all steps while it is in cache. A unit of work is one step on one tile, or
//! some column panels of a large matrix product: a few ten microseconds; between units the engine looks at the clock. The least unit is one
//! step on one row (of a matrix product: on one panel of it), so only a single step of millions of operations per row could take longer.
//!
//! Guarantee: a row's scores are the same bits whatever rows it was batched with and wherever it lies in the batch (per instruction set; see
//! `gemm`). Every kernel computes a row from that row alone, in an order that depends on shapes only.

#![allow(unsafe_code)] // kernels: SIMD, and views into a planned workspace

mod elementary;
mod engine;
pub(in crate::engine) mod gemm;
pub(in crate::engine) mod kernels;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
mod math;
pub(in crate::engine) mod memory;
pub(in crate::engine) mod plan;
mod program;
mod simd;
mod tile;
pub(in crate::engine) mod walk;

#[cfg(test)]
pub(in crate::engine) mod tests;

pub use engine::CpuEngine;
pub use plan::{Per, PlanReport, PlanTask, PlanWork, PrecisionOptions};
pub use program::{Hoist, Needs, Options, Program};
pub use simd::{Simd, SimdLevel};
