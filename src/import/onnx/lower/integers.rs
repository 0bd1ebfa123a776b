//! Arithmetic of integers as ONNX has it, by a bundle's ops: narrow types wrap around, quotients lose their fraction.

use crate::model::DType;

use super::super::constant::Elem;
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId};
use super::Lower;

impl Lower {
    /// Integers of fewer than 64 bits wrap around, as ONNX computes them; a bundle's integers have 64.
    pub fn around(&mut self, x: IrId, elem: Elem) -> Checked<IrId> {
        let Some((bits, signed)) = elem.narrow() else { return Ok(x) };
        let size = 2_f64.powi(bits);
        if !signed {
            return self.with("mod", x, size);
        }
        let shifted = self.with("add", x, size / 2.0)?;
        let wrapped = self.with("mod", shifted, size)?;
        self.with("sub", wrapped, size / 2.0)
    }

    /// x to a whole power, by products.
    pub fn whole_power(&mut self, x: Arg, power: Arg) -> Checked<IrId> {
        let (Arg::Value(x), Arg::Number(power)) = (x, power) else {
            return Err(problem("a power of a number", "Fold constants before the import"));
        };
        let (mut square, mut rest) = (x, power as u32);
        let mut product: Option<IrId> = None;
        while rest > 0 {
            if rest % 2 == 1 {
                product = Some(product.map_or(Ok(square), |product| self.both("mul", product, square))?);
            }
            rest /= 2;
            if rest > 0 {
                square = self.both("mul", square, square)?;
            }
        }
        match product {
            Some(product) => Ok(product),
            None => {
                let shape = self.shape(x);
                self.fill(1.0, &shape, Elem::I64)
            }
        }
    }

    /// The remainder with the sign of the dividend: sign(x) · (|x| mod |y|).
    pub fn remainder(&mut self, x: Arg, y: Arg) -> Checked<IrId> {
        let Arg::Value(x) = x else { return Err(problem("fmod of a number by a value", "Use a value as the dividend")) };
        let y = match y {
            Arg::Value(y) => {
                let negative = self.with("mul", y, -1.0)?;
                Arg::Value(self.both("max", y, negative)?)
            }
            Arg::Number(y) => Arg::Number(y.abs()),
            other => other,
        };
        let negative = self.with("mul", x, -1.0)?;
        let size = self.both("max", x, negative)?;
        let rest = self.binary("mod", Arg::Value(size), y)?;
        let below = self.compare("lt", Arg::Value(x), Arg::Number(0.0))?;
        let minus = self.with("mul", rest, -1.0)?;
        self.select(below, Arg::Value(minus), Arg::Value(rest))
    }

    /// x / y without its fraction.
    ///
    /// Without the remainder, x is a multiple of y. Bundles divide floats alone, and an f32 holds 24 bits: its quotient, rounded, is off by
    /// at most 2^-22 of itself. What it leaves of x is divided again, until the quotient of the rest has fewer than 21 bits and is exact.
    pub fn quotient(&mut self, x: Arg, y: Arg, elem: Elem) -> Checked<IrId> {
        const EXACT_BITS: f64 = 21.0;
        const BITS: f64 = 22.0;
        let x = match x {
            Arg::Number(number) => self.fill(number, &[], Elem::I64)?,
            Arg::Value(id) => id,
            Arg::List(_) => return Err(problem("a list as an operand", "Export the model again")),
        };
        let least = match y {
            Arg::Number(0.0) => return Err(problem("a division of integers by 0", "Export the model again")),
            Arg::Number(1.0) => return Ok(x),
            Arg::Number(y) => y.abs(),
            _ => 1.0,
        };
        let mut bits = f64::from(elem.narrow().map_or(63, |(bits, _)| bits)) - least.log2();
        let rest = self.remainder(Arg::Value(x), y.clone())?;
        let mut left = self.both("sub", x, rest)?;
        let divisor = match &y {
            Arg::Value(y) => Arg::Value(self.cast(*y, DType::F32)?),
            other => other.clone(),
        };
        let mut quotient: Option<IrId> = None;
        loop {
            let part = self.cast(left, DType::F32)?;
            let part = self.binary("div", Arg::Value(part), divisor.clone())?;
            let part = self.with("add", part, 0.5)?;
            let part = self.unary("floor", part)?;
            let part = self.cast(part, DType::I64)?;
            let sum = quotient.map_or(Ok(part), |quotient| self.both("add", quotient, part))?;
            if bits < EXACT_BITS {
                return self.around(sum, elem);
            }
            bits -= BITS;
            quotient = Some(sum);
            let taken = self.binary("mul", Arg::Value(part), y.clone())?;
            left = self.both("sub", left, taken)?;
        }
    }
}
