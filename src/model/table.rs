//! Embedding tables: the formats of their rows, and which numbers a row holds.
//!
//! Plain rows are `dim` floats. Coded rows hold `dim` codes of 8, 4 or 2 bits, low bits first, and one scale and bias:
//! ```text
//!   int8_rowwise  c0 c1 c2 ..      scale f32  bias f32   padding
//!   int4_rowwise  c1c0 c3c2 ..     scale f16  bias f16   padding      (int2_rowwise: c3c2c1c0 ..)
//!   int8_tbe      scale f16  bias f16   c0 c1 c2 ..      padding      (int4_tbe, int2_tbe: packed as above)
//! ```
//! value = code · scale + bias, rounded once, to f32. That is what fbgemm stores (`_rowwise`: its fused rows; `_tbe`: tables for inference, which
//! torchrec's quantised collections hold) and, bit by bit, what it reads. Padding is whatever a row has beyond its format's bytes.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::table_memory::TableMemory;

/// Index into [`super::Weights::tables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableId(pub u16);

/// Row format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableDType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit floats with the exponent of f32.
    Bf16,
    /// 8-bit codes, then f32 scale and bias.
    Int8Rowwise,
    /// 4-bit codes, then f16 scale and bias.
    Int4Rowwise,
    /// 2-bit codes, then f16 scale and bias.
    Int2Rowwise,
    /// f16 scale and bias, then 8-bit codes.
    Int8Tbe,
    /// f16 scale and bias, then 4-bit codes.
    Int4Tbe,
    /// f16 scale and bias, then 2-bit codes.
    Int2Tbe,
}

/// Where a coded row keeps what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Bits of a code: 8, 4 or 2.
    pub bits: usize,
    /// First byte of the codes.
    pub codes: usize,
    /// First byte of the scale; the bias follows it.
    pub scale: usize,
    /// Whether scale and bias are f16 (else f32).
    pub half: bool,
}

impl TableDType {
    /// Every format, with its name in the manifest.
    pub const ALL: [(&'static str, TableDType); 9] = [
        ("f32", TableDType::F32),
        ("f16", TableDType::F16),
        ("bf16", TableDType::Bf16),
        ("int8_rowwise", TableDType::Int8Rowwise),
        ("int4_rowwise", TableDType::Int4Rowwise),
        ("int2_rowwise", TableDType::Int2Rowwise),
        ("int8_tbe", TableDType::Int8Tbe),
        ("int4_tbe", TableDType::Int4Tbe),
        ("int2_tbe", TableDType::Int2Tbe),
    ];

    /// Its name in the manifest.
    pub fn name(self) -> &'static str {
        TableDType::ALL.iter().find(|(_, dtype)| *dtype == self).map_or("", |(name, _)| name)
    }

    /// How rows of `dim` codes are laid out; None for floats.
    pub fn coding(self, dim: usize) -> Option<Coding> {
        let rowwise = |bits: usize| Coding { bits, codes: 0, scale: (dim * bits).div_ceil(8), half: bits < 8 };
        let tbe = |bits| Coding { bits, codes: 4, scale: 0, half: true };
        Some(match self {
            TableDType::F32 | TableDType::F16 | TableDType::Bf16 => return None,
            TableDType::Int8Rowwise => rowwise(8),
            TableDType::Int4Rowwise => rowwise(4),
            TableDType::Int2Rowwise => rowwise(2),
            TableDType::Int8Tbe => tbe(8),
            TableDType::Int4Tbe => tbe(4),
            TableDType::Int2Tbe => tbe(2),
        })
    }

    /// Bytes that a row of `dim` numbers needs; coded rows may have more.
    pub fn row_bytes(self, dim: usize) -> usize {
        match self.coding(dim) {
            Some(Coding { bits, half, .. }) => (dim * bits).div_ceil(8) + if half { 4 } else { 8 },
            None if self == TableDType::F32 => dim * 4,
            None => dim * 2,
        }
    }

    /// Element type of the tensor that holds such a table.
    pub(crate) fn stored(self) -> &'static str {
        match self {
            TableDType::F32 => "F32",
            TableDType::F16 => "F16",
            TableDType::Bf16 => "BF16",
            _ => "U8",
        }
    }
}

/// An embedding table. Every number that its rows hold is finite (checked at load).
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Name in the manifest.
    pub name: String,
    /// Number of rows, 1 to `u32::MAX` - 1.
    pub rows: u32,
    /// Numbers per row.
    pub dim: u32,
    /// Row format.
    pub dtype: TableDType,
    /// `rows` rows of equal size, each at least `dtype.row_bytes(dim)`.
    pub data: TableMemory,
}

impl Table {
    /// Bytes of its rows.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Bytes from row to row.
    pub fn row_bytes(&self) -> usize {
        self.view().row_bytes()
    }

    /// The bytes of a row below `rows`.
    pub fn row(&self, row: u32) -> &[u8] {
        self.view().row(row)
    }

    /// The number in `column` of a row, as the format defines it. Slow: engines read rows at once.
    pub fn value(&self, row: u32, column: usize) -> f32 {
        self.view().value(row, column)
    }

    fn view(&self) -> TableRows<'_> {
        TableRows { bytes: &self.data, rows: self.rows, dim: self.dim, dtype: self.dtype }
    }
}

/// The rows of a table, wherever they lie.
#[derive(Clone, Copy)]
pub(crate) struct TableRows<'a> {
    pub bytes: &'a [u8],
    pub rows: u32,
    pub dim: u32,
    pub dtype: TableDType,
}

impl<'a> TableRows<'a> {
    fn row_bytes(self) -> usize {
        self.bytes.len() / self.rows as usize
    }

    fn row(self, row: u32) -> &'a [u8] {
        let size = self.row_bytes();
        &self.bytes[row as usize * size..][..size]
    }

    fn value(self, row: u32, column: usize) -> f32 {
        let (dim, row) = (self.dim as usize, self.row(row));
        assert!(column < dim, "column {column} of {dim}");
        match self.dtype {
            TableDType::F32 => read_f32(row, column * 4),
            TableDType::F16 => read_f16(row, column * 2),
            TableDType::Bf16 => bf16::from_le_bytes([row[column * 2], row[column * 2 + 1]]).to_f32(),
            coded => {
                let coding = coded.coding(dim).expect("the formats of floats are above");
                let (scale, bias) = coding.scale_and_bias(row);
                f32::from(coding.code(row, column)).mul_add(scale, bias)
            }
        }
    }

    /// The first number that is not finite, as the start of a sentence: `element 3 of row 7 is NaN`.
    pub fn not_finite(self) -> Option<String> {
        let mut rows = self.bytes.chunks_exact(self.row_bytes()).zip(0..);
        let Some(coding) = self.dtype.coding(self.dim as usize) else {
            let (row, column) = rows.find_map(|(bytes, row)| Some((row, self.dtype.first_not_finite(bytes)?)))?;
            return Some(format!("element {column} of row {row} is {}", self.value(row, column)));
        };
        let most = f32::from(u8::MAX >> (8 - coding.bits));
        rows.find_map(|(bytes, row)| {
            let (scale, bias) = coding.scale_and_bias(bytes);
            match () {
                () if !scale.is_finite() => Some(format!("the scale of row {row} is {scale}")),
                () if !bias.is_finite() => Some(format!("the bias of row {row} is {bias}")),
                () if !most.mul_add(scale, bias).is_finite() => {
                    Some(format!("row {row} holds up to {most} · {scale:e} + {bias:e}, beyond f32"))
                }
                () => None,
            }
        })
    }
}

impl TableDType {
    /// The first float of a plain row that is not finite.
    fn first_not_finite(self, row: &[u8]) -> Option<usize> {
        let half = |exponent: u16| row.as_chunks::<2>().0.iter().position(|x| u16::from_le_bytes(*x) & exponent == exponent);
        match self {
            TableDType::F16 => half(0x7c00),
            TableDType::Bf16 => half(0x7f80),
            _ => row.as_chunks::<4>().0.iter().position(|x| !f32::from_le_bytes(*x).is_finite()),
        }
    }
}

impl Coding {
    /// Scale and bias of a row.
    pub fn scale_and_bias(&self, row: &[u8]) -> (f32, f32) {
        if self.half {
            (read_f16(row, self.scale), read_f16(row, self.scale + 2))
        } else {
            (read_f32(row, self.scale), read_f32(row, self.scale + 4))
        }
    }

    /// The code in `column` of a row.
    pub fn code(&self, row: &[u8], column: usize) -> u8 {
        let per_byte = 8 / self.bits;
        let packed = row[self.codes + column / per_byte] >> (column % per_byte * self.bits);
        packed & (u8::MAX >> (8 - self.bits))
    }
}

fn read_f16(row: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([row[at], row[at + 1]]).to_f32()
}

fn read_f32(row: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(dtype: TableDType, dim: u32, rows: &[&[u8]]) -> Table {
        Table { name: "t".into(), rows: rows.len() as u32, dim, dtype, data: TableMemory::from(rows.concat().as_slice()) }
    }

    fn halves(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    }

    #[test]
    fn rows_mean_what_their_format_says() {
        let floats: Vec<u8> = [0.5_f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let short: Vec<u8> = [0.5_f32, -2.0].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let (header, long) = (halves(&[0.25, -1.0]), [0.25_f32.to_le_bytes(), (-1.0_f32).to_le_bytes()].concat());
        // Format, row, values. Codes: 3, 255 | 3, 15, 1 | 3, 0, 2, 1, 3. Padding of 9 behind some rows.
        let cases: [(TableDType, Vec<u8>, &[f32]); 9] = [
            (TableDType::F32, floats, &[0.5, -2.0]),
            (TableDType::F16, halves(&[0.5, -2.0]), &[0.5, -2.0]),
            (TableDType::Bf16, short, &[0.5, -2.0]),
            (TableDType::Int8Rowwise, [&[3, 255], long.as_slice(), &[9]].concat(), &[-0.25, 62.75]),
            (TableDType::Int4Rowwise, [&[0xf3, 0x01], header.as_slice()].concat(), &[-0.25, 2.75, -0.75]),
            (TableDType::Int2Rowwise, [&[0b0110_0011, 3], header.as_slice()].concat(), &[-0.25, -1.0, -0.5, -0.75, -0.25]),
            (TableDType::Int8Tbe, [header.as_slice(), &[3, 255, 9, 9]].concat(), &[-0.25, 62.75]),
            (TableDType::Int4Tbe, [header.as_slice(), &[0xf3, 0x01]].concat(), &[-0.25, 2.75, -0.75]),
            (TableDType::Int2Tbe, [header.as_slice(), &[0b0110_0011, 3, 9]].concat(), &[-0.25, -1.0, -0.5, -0.75, -0.25]),
        ];
        for (dtype, row, expected) in cases {
            assert!(row.len() >= dtype.row_bytes(expected.len()), "{dtype:?}");
            let table = table(dtype, expected.len() as u32, &[&vec![0; row.len()], &row]);
            let found: Vec<f32> = (0..expected.len()).map(|column| table.value(1, column)).collect();
            assert_eq!(found, expected, "{dtype:?}");
            assert_eq!(table.view().not_finite(), None, "{dtype:?}");
        }
    }

    #[test]
    fn names_and_sizes() {
        let sizes = TableDType::ALL.map(|(_, dtype)| dtype.row_bytes(13));
        assert_eq!(sizes, [52, 26, 26, 21, 11, 8, 17, 11, 8]);
        assert!(TableDType::ALL.iter().all(|(name, dtype)| dtype.name() == *name));
    }

    #[test]
    fn finds_what_is_not_finite() {
        let long = |scale: f32, bias: f32| [&[0, 0], &scale.to_le_bytes()[..], &bias.to_le_bytes()].concat();
        let good = long(1.0, 0.0);
        let cases = [
            (table(TableDType::F16, 2, &[&halves(&[1.0, 2.0]), &halves(&[1.0, f32::INFINITY])]), "element 1 of row 1 is inf"),
            (table(TableDType::Bf16, 1, &[&[0, 0], &[0xc0, 0x7f]]), "element 0 of row 1 is NaN"),
            (table(TableDType::F32, 1, &[&[0; 4], &f32::NEG_INFINITY.to_le_bytes()]), "element 0 of row 1 is -inf"),
            (table(TableDType::Int8Rowwise, 2, &[&good, &long(f32::NAN, 0.0)]), "the scale of row 1 is NaN"),
            (table(TableDType::Int8Rowwise, 2, &[&good, &long(0.0, f32::INFINITY)]), "the bias of row 1 is inf"),
            (table(TableDType::Int8Rowwise, 2, &[&good, &long(2e36, 0.0)]), "row 1 holds up to 255 · 2e36 + 0e0, beyond f32"),
            (table(TableDType::Int4Tbe, 2, &[&[0xff, 0x7f, 0, 0, 0]]), "the scale of row 0 is NaN"),
        ];
        for (table, expected) in cases {
            assert_eq!(table.view().not_finite().as_deref(), Some(expected));
        }
    }
}
