//! Blocks, mask and bids of whatever bytes: refused, or in a slot whose every row an engine may index with.
#![no_main]

#[path = "../../tests/admit/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    world::admit_all(bytes);
});
