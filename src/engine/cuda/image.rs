//! Bytes that the driver may be given as compiled kernels: an ELF image tells its own length, so the driver reads as far as it says.
//!
//! ```text
//! 0  7f E L F | class 2 = 64 bit | data 1 = little endian | ...      18  machine 190 = NVIDIA CUDA
//! 32 place of segments  40 place of sections      54 bytes of a segment's entry, how many   58 of a section's, how many, which one has the names
//! entry of a segment    8 place in the file  32 bytes there
//! entry of a section    4 kind (8 = no bytes in the file)  24 place in the file  32 bytes there
//! ```
//!
//! Source: System V ABI, "Object Files"; the machine's number from its registry. What is in the sections is the driver's affair.

/// A whole ELF image for NVIDIA's GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'b>(&'b [u8]);

/// Why bytes are no such image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Something else, or nothing.
    #[error("{0} bytes that are no 64-bit ELF image")]
    NotElf(usize),
    /// Code for something else.
    #[error("an ELF image for machine {0}, not for NVIDIA GPUs (machine {CUDA})")]
    Machine(u16),
    /// Its header contradicts itself.
    #[error("an ELF image with {0}")]
    Header(&'static str),
    /// It says of itself that it is longer.
    #[error("an ELF image that is cut off: {what} end at byte {end} of {bytes}")]
    CutOff {
        /// Which part.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// How many bytes there are.
        bytes: usize,
    },
}

impl<'b> Image<'b> {
    /// Looks whether it is one, and whole.
    pub fn new(bytes: &'b [u8]) -> Result<Image<'b>, ImageError> {
        let header = bytes.get(..HEADER_BYTES).filter(|header| header.starts_with(b"\x7fELF\x02\x01"));
        let header = header.ok_or(ImageError::NotElf(bytes.len()))?;
        match u16_at(header, 18) {
            CUDA => {}
            machine => return Err(ImageError::Machine(machine)),
        }
        let segments =
            entries(bytes, "its segments' entries", u64_at(header, 32), (u16_at(header, 54), SEGMENT_BYTES), u16_at(header, 56))?;
        for segment in segments {
            within(bytes, "its segments", u64_at(segment, 8), u64_at(segment, 32))?;
        }
        let count = u16_at(header, 60);
        if count == 0 || u16_at(header, 62) >= count {
            return Err(ImageError::Header("no sections, or none that names them"));
        }
        for section in entries(bytes, "its sections' entries", u64_at(header, 40), (u16_at(header, 58), SECTION_BYTES), count)? {
            if u32_at(section, 4) != NO_BYTES {
                within(bytes, "its sections", u64_at(section, 24), u64_at(section, 32))?;
            }
        }
        Ok(Image(bytes))
    }

    /// All of it.
    pub fn bytes(&self) -> &'b [u8] {
        self.0
    }
}

const CUDA: u16 = 190;
/// Of a section: it has no bytes in the file.
const NO_BYTES: u32 = 8;
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const SECTION_BYTES: usize = 64;

/// The bytes from one place on, if there are so many.
fn within<'b>(bytes: &'b [u8], what: &'static str, from: u64, length: u64) -> Result<&'b [u8], ImageError> {
    let end = from.saturating_add(length);
    let range = usize::try_from(from).ok().zip(usize::try_from(end).ok());
    range.and_then(|(from, end)| bytes.get(from..end)).ok_or(ImageError::CutOff { what, end, bytes: bytes.len() })
}

/// A table of entries whose size is told, and known.
fn entries<'b>(
    bytes: &'b [u8],
    what: &'static str,
    from: u64,
    (told, known): (u16, usize),
    count: u16,
) -> Result<impl Iterator<Item = &'b [u8]>, ImageError> {
    if count > 0 && usize::from(told) != known {
        return Err(ImageError::Header("entries of another size"));
    }
    // Where there are none, their place means nothing.
    let from = if count == 0 { 0 } else { from };
    Ok(within(bytes, what, from, u64::from(count) * known as u64)?.chunks_exact(known))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

/// An image that is whole: a section of names, one of `code`, one without bytes, and a segment behind the sections' entries, as compilers lay them out.
#[cfg(test)]
pub fn sample(code: &[u8]) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\x33\x07".to_vec();
    image.resize(HEADER_BYTES, 0);
    image.extend_from_slice(code);
    let (sections_at, count) = (image.len(), 4);
    for (kind, length) in [(0, 0), (3, 0), (1, code.len()), (NO_BYTES, 1 << 30)] {
        let mut section = [0; SECTION_BYTES];
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[24..32].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        section[32..40].copy_from_slice(&(length as u64).to_le_bytes());
        image.extend_from_slice(&section);
    }
    let segments_at = image.len();
    let mut segment = [0; SEGMENT_BYTES];
    segment[8..16].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
    segment[32..40].copy_from_slice(&(code.len() as u64).to_le_bytes());
    image.extend_from_slice(&segment);
    for (at, place) in [(32, segments_at), (40, sections_at)] {
        image[at..at + 8].copy_from_slice(&(place as u64).to_le_bytes());
    }
    for (at, number) in [(18, CUDA), (54, 56), (56, 1), (58, 64), (60, count), (62, 1)] {
        image[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(image: &[u8]) -> String {
        Image::new(image).expect_err("refused").to_string()
    }

    #[test]
    fn whole_images_are_taken() {
        for code in [&b""[..], b"code"] {
            let image = sample(code);
            assert_eq!(Image::new(&image).map(|image| image.bytes().len()), Ok(image.len()));
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let image = sample(b"code");
        for length in 0..image.len() {
            assert!(Image::new(&image[..length]).is_err(), "{length} bytes of {}", image.len());
        }
        assert_eq!(fault(&image[..100]), "an ELF image that is cut off: its segments' entries end at byte 380 of 100");
        assert_eq!(fault(b"no ELF image at all"), "19 bytes that are no 64-bit ELF image");
    }

    #[test]
    fn each_field_is_looked_at() {
        type Change = (&'static str, usize, &'static [u8], &'static str);
        let far = &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        let farthest = &[0xff; 8];
        let changes: [Change; 13] = [
            ("magic", 0, b"\x7fBLF", "no 64-bit ELF"),
            ("class", 4, &[1], "no 64-bit ELF"),
            ("byte order", 5, &[2], "no 64-bit ELF"),
            ("machine", 18, &[62, 0], "for machine 62, not for NVIDIA GPUs (machine 190)"),
            ("segments", 32, far, "its segments' entries end at byte"),
            ("sections", 40, farthest, "its sections' entries end at byte 18446744073709551615"),
            ("a segment's entry", 54, &[8, 0], "entries of another size"),
            ("a section's entry", 58, &[0, 0], "entries of another size"),
            ("no sections", 60, &[0, 0], "no sections"),
            ("many sections", 60, &[0xff, 0xff], "its sections' entries end"),
            ("names", 62, &[4, 0], "none that names them"),
            ("a section's place", 68 + 2 * 64 + 24, far, "its sections end"),
            ("a segment's length", 68 + 4 * 64 + 32, farthest, "its segments end"),
        ];
        for (name, at, bytes, reason) in changes {
            let mut image = sample(b"code");
            image[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(fault(&image).contains(reason), "{name}: {}", fault(&image));
        }
    }

    proptest! {
        /// Whatever the bytes are: no panic, and what is taken lies within them.
        #[test]
        fn any_bytes_are_judged(mut image in prop::collection::vec(any::<u8>(), 0..600), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), real in any::<bool>()) {
            if real {
                image = sample(&image);
            }
            for (at, byte) in changes {
                if !image.is_empty() {
                    let at = at.index(image.len());
                    image[at] = byte;
                }
            }
            if let Ok(taken) = Image::new(&image) {
                prop_assert_eq!(taken.bytes(), &image[..]);
            }
        }
    }
}
