//! Stored floats to f32.

use half::{bf16, f16};

/// Converts the elements in `bytes`, of the safetensors type `stored` (F32, F16, BF16, or F64, which is rounded), to as many `values`.
/// Panics for other types and counts: the caller compared them with the header.
pub(super) fn to_f32(stored: &str, bytes: &[u8], values: &mut [f32]) {
    match stored {
        "F32" => each(bytes, values, f32::from_le_bytes),
        "F16" => each(bytes, values, |bytes| f16::from_le_bytes(bytes).to_f32()),
        "BF16" => each(bytes, values, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        "F64" => each(bytes, values, |bytes| f64::from_le_bytes(bytes) as f32),
        other => unreachable!("the shape pass lets no {other} be read as f32"),
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (elements, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && elements.len() == values.len(), "as many elements as values");
    values.iter_mut().zip(elements).for_each(|(value, bytes)| *value = convert(*bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_float_becomes_its_f32() {
        let values = [0.5_f32, -0.0, 1e30, 3.0e-5];
        let mut found = [0.0; 4];
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        to_f32("F32", &bytes, &mut found);
        assert_eq!(found.map(f32::to_bits), values.map(f32::to_bits));
        let bytes: Vec<u8> = values.iter().flat_map(|x| (f64::from(*x) * (1.0 + 1e-12)).to_le_bytes()).collect();
        to_f32("F64", &bytes, &mut found);
        assert_eq!(found, values);
        let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        to_f32("BF16", &bytes, &mut found);
        assert_eq!(found, values.map(|x| bf16::from_f32(x).to_f32()));
        let bytes: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        to_f32("F16", &bytes, &mut found);
        assert_eq!(found, [0.5, 0.0, f32::INFINITY, f16::from_f32(3.0e-5).to_f32()]);
    }
}
