//! A header of whatever bytes: read or refused with a code that closes the connection, and the same bytes when written back.
#![no_main]

use gavel_protocol::{HEADER_BYTES, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return };
    match Header::parse(bytes) {
        Ok(header) => assert_eq!(header.to_bytes(), *bytes),
        Err((code, _)) => assert!(code.closes()),
    }
});
