//! Files beside compiled kernels, and what the compiler says of them: an image that is taken is whole, so that its tables and their parts lie within
//! the bytes; a report gives no more functions than it has lines.
#![no_main]

use gavel::engine::cuda::Image;
use gavel::engine::cuda::compile::Resources;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = Image::new(bytes) {
        assert_eq!(image.bytes(), bytes);
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u16_at = |at: usize| u64::from(u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes")));
        assert!(bytes.starts_with(b"\x7fELF") && u16_at(18) == 190);
        assert!(u64_at(40) + u16_at(58) * u16_at(60) <= bytes.len() as u64);
        assert!(u16_at(56) == 0 || u64_at(32) + u16_at(54) * u16_at(56) <= bytes.len() as u64);
    }
    let text = String::from_utf8_lossy(bytes);
    assert!(Resources::parse(&text).len() <= text.lines().count());
});
