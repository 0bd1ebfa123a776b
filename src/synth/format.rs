//! Element types of synthetic tables. Numbers are drawn as f32 and then stored as the format can hold them.

use half::{bf16, f16};

/// How a table stores its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableFormat {
    /// 4 bytes an element.
    #[default]
    F32,
    /// 2 bytes, 11 significant bits.
    F16,
    /// 2 bytes, 8 significant bits.
    Bf16,
    /// 1 byte, and an f32 scale and bias a row.
    Int8Rowwise,
}

impl TableFormat {
    /// As the manifest names it.
    pub const fn name(self) -> &'static str {
        match self {
            TableFormat::F32 => "f32",
            TableFormat::F16 => "f16",
            TableFormat::Bf16 => "bf16",
            TableFormat::Int8Rowwise => "int8_rowwise",
        }
    }

    /// Element type of the tensor that holds a table.
    pub(super) const fn tensor_type(self) -> &'static str {
        match self {
            TableFormat::F32 => "F32",
            TableFormat::F16 => "F16",
            TableFormat::Bf16 => "BF16",
            TableFormat::Int8Rowwise => "U8",
        }
    }

    /// Columns of that tensor.
    pub(super) const fn tensor_columns(self, dim: usize) -> usize {
        match self {
            TableFormat::Int8Rowwise => dim + 8,
            _ => dim,
        }
    }

    /// Bytes of a row of `dim` elements.
    pub const fn row_bytes(self, dim: usize) -> usize {
        match self {
            TableFormat::F32 => 4 * dim,
            TableFormat::F16 | TableFormat::Bf16 => 2 * dim,
            TableFormat::Int8Rowwise => dim + 8,
        }
    }

    /// Appends the stored form of whole rows, and replaces the numbers by what is read back from it.
    pub(super) fn store(self, rows: &mut [f32], dim: usize, bytes: &mut Vec<u8>) {
        match self {
            TableFormat::F32 => bytes.extend_from_slice(bytemuck::cast_slice(rows)),
            TableFormat::F16 => rows.iter_mut().for_each(|value| {
                let stored = f16::from_f32(*value);
                bytes.extend(stored.to_le_bytes());
                *value = stored.to_f32();
            }),
            TableFormat::Bf16 => rows.iter_mut().for_each(|value| {
                let stored = bf16::from_f32(*value);
                bytes.extend(stored.to_le_bytes());
                *value = stored.to_f32();
            }),
            TableFormat::Int8Rowwise => rows.chunks_exact_mut(dim).for_each(|row| store_int8(row, bytes)),
        }
    }
}

/// Codes 0 to 255 from the row's least to its largest element, then scale and bias.
fn store_int8(row: &mut [f32], bytes: &mut Vec<u8>) {
    let (low, high) = row.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
    // A row of equal elements is its bias.
    let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
    for value in row.iter_mut() {
        let code = ((*value - low) / scale).round().clamp(0.0, 255.0);
        bytes.push(code as u8);
        // The format rounds once; in f64 both the product and the sum are exact enough to be rounded once.
        *value = (f64::from(code) * f64::from(scale) + f64::from(low)) as f32;
    }
    bytes.extend(scale.to_le_bytes());
    bytes.extend(low.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_stored_as_named() {
        for (format, bytes_per_row, error) in
            [(TableFormat::F32, 16, 0.0), (TableFormat::F16, 8, 1e-3), (TableFormat::Bf16, 8, 8e-3), (TableFormat::Int8Rowwise, 12, 4e-3)]
        {
            let drawn = [0.5, -0.9, 0.123, 0.99, 0.25, 0.25, 0.25, 0.25];
            let (mut rows, mut bytes) = (drawn, Vec::new());
            format.store(&mut rows, 4, &mut bytes);
            assert_eq!((bytes.len(), format.row_bytes(4)), (2 * bytes_per_row, bytes_per_row), "{format:?}");
            assert!(rows.iter().zip(drawn).all(|(stored, drawn)| (stored - drawn).abs() <= error), "{format:?}: {rows:?}");
        }
        let (mut row, mut bytes) = ([0.0, 255.0, 3.0, 4.4], Vec::new());
        TableFormat::Int8Rowwise.store(&mut row, 4, &mut bytes);
        assert_eq!((row, &bytes[..4]), ([0.0, 255.0, 3.0, 4.0], &[0, 255, 3, 4][..]));
    }
}
