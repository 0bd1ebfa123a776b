//! Bytes of a connection: a header is read or refused with a code that closes the connection, and the same bytes when written back; the frame that
//! it begins is whole, asks for more, or breaks the connection.
#![no_main]

use gavel::connection::{Frame, next_frame};
use gavel_protocol::{HEADER_BYTES, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = bytes.first_chunk::<HEADER_BYTES>().map(Header::parse);
    match (next_frame(bytes, FRAME_BYTES_MAX), &parsed) {
        (Frame::Whole { header, body }, Some(Ok(expected))) => {
            assert_eq!(header.to_bytes(), expected.to_bytes());
            assert_eq!(body, &bytes[HEADER_BYTES..][..header.body_len as usize]);
        }
        (Frame::More { bytes: Some(wanted) }, Some(Ok(_))) => assert!(bytes.len() < wanted && wanted <= FRAME_BYTES_MAX),
        (Frame::More { bytes: None }, None) => {}
        (Frame::Broken { code, .. }, _) => assert!(code.closes()),
        _ => panic!("a frame that its header does not announce"),
    }
    match (bytes.first_chunk::<HEADER_BYTES>(), parsed) {
        (Some(bytes), Some(Ok(header))) => assert_eq!(header.to_bytes(), *bytes),
        (_, Some(Err((code, _)))) => assert!(code.closes()),
        _ => {}
    }
});

/// Small, so that frames that are too large are found too.
const FRAME_BYTES_MAX: usize = 4096;
