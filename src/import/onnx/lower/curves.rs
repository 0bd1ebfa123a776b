//! Circular and hyperbolic functions and their inverses, which bundles have no ops for: by polynomials of S. L. Moshier's Cephes library
//! (asinhf.c, acoshf.c, atanf.c, atanhf.c, sinhf.c) near 0, by exp, log and sqrt elsewhere. Relative errors are below 3e-7.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, LN_2};

use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId};
use super::Lower;

/// Coefficients of x³, x⁵, .. of arctan up to tan(π/8).
const ARCTAN: [f64; 4] = [-3.333_294_915_39e-1, 1.997_771_064_78e-1, -1.387_768_560_32e-1, 8.053_744_495_38e-2];

/// Of sinh, up to 1.
const SINH: [f64; 3] = [1.666_673_505_35e-1, 8.332_160_289_98e-3, 2.037_210_912_76e-4];

/// Of arsinh, up to 1/2.
const ARSINH: [f64; 4] = [-1.666_628_813_4e-1, 7.484_758_608_8e-2, -4.269_934_097_2e-2, 2.012_200_330_9e-2];

/// Of artanh, up to 1/2.
const ARTANH: [f64; 5] = [3.333_373_003_03e-1, 1.997_821_645_00e-1, 1.466_914_317_30e-1, 8.243_703_010_58e-2, 1.817_400_783_49e-1];

/// Of arcosh(1 + z) / sqrt(z): 1, z, z², .., up to 1/2.
const ARCOSH: [f64; 5] = [1.414_213_526_3, -1.178_474_170_3e-1, 2.645_490_501_9e-2, -7.527_288_671_3e-3, 1.759_688_107_1e-3];

impl Lower {
    /// One of them, by its name in ONNX.
    pub fn curve(&mut self, op: &str, x: IrId) -> Checked<IrId> {
        match op {
            "Atan" => self.arctan(x),
            // x / sqrt((1 - x) (1 + x)) is the tangent: infinite at ±1, NaN beyond.
            "Asin" => {
                let product = self.around_one(x, "mul")?;
                let root = self.unary("sqrt", product)?;
                let tangent = self.both("div", x, root)?;
                self.arctan(tangent)
            }
            // Twice the angle whose tangent is sqrt((1 - x) / (1 + x)).
            "Acos" => {
                let ratio = self.around_one(x, "div")?;
                let tangent = self.unary("sqrt", ratio)?;
                let half = self.arctan(tangent)?;
                self.with("mul", half, 2.0)
            }
            "Sinh" => {
                let far = self.exponentials(x, "sub")?;
                let near = self.odd(x, &SINH)?;
                self.near_else(x, 1.0, near, far)
            }
            "Cosh" => self.exponentials(x, "add"),
            "Asinh" => {
                let size = self.unary("abs", x)?;
                // Of numbers whose square overflows: log(2 x).
                let square = self.both("mul", size, size)?;
                let root = self.with("add", square, 1.0)?;
                let root = self.unary("sqrt", root)?;
                let far = self.logarithm_of_sum(size, root)?;
                let sign = self.unary("sign", x)?;
                let far = self.both("mul", sign, far)?;
                let near = self.odd(x, &ARSINH)?;
                self.near_else(x, 0.5, near, far)
            }
            "Acosh" => {
                let over = self.with("sub", x, 1.0)?;
                let above = self.with("add", x, 1.0)?;
                let root = self.both("mul", over, above)?;
                let root = self.unary("sqrt", root)?;
                let far = self.logarithm_of_sum(x, root)?;
                let series = self.polynomial(over, &ARCOSH)?;
                let root = self.unary("sqrt", over)?;
                let near = self.both("mul", series, root)?;
                self.near_else(over, 0.5, near, far)
            }
            "Atanh" => {
                let below = self.binary("sub", Arg::Number(1.0), Arg::Value(x))?;
                let above = self.with("add", x, 1.0)?;
                let ratio = self.both("div", above, below)?;
                let far = self.unary("log", ratio)?;
                let far = self.with("mul", far, 0.5)?;
                let near = self.odd(x, &ARTANH)?;
                self.near_else(x, 0.5, near, far)
            }
            other => Err(problem(format!("no function {other}"), "Express it with other ops")),
        }
    }

    /// arctan: beyond 1 it is π/2 less that of 1/x, beyond tan(π/8) π/4 and that of (x - 1) / (x + 1).
    fn arctan(&mut self, x: IrId) -> Checked<IrId> {
        let size = self.unary("abs", x)?;
        let steep = self.compare("gt", Arg::Value(size), Arg::Number(1.0))?;
        let inverse = self.binary("div", Arg::Number(1.0), Arg::Value(size))?;
        let flat = self.select(steep, Arg::Value(inverse), Arg::Value(size))?;
        let turned = self.compare("gt", Arg::Value(flat), Arg::Number((FRAC_PI_4 / 2.0).tan()))?;
        let (less, more) = (self.with("sub", flat, 1.0)?, self.with("add", flat, 1.0)?);
        let ratio = self.both("div", less, more)?;
        let near = self.select(turned, Arg::Value(ratio), Arg::Value(flat))?;
        let angle = self.odd(near, &ARCTAN)?;
        let eighth = self.with("add", angle, FRAC_PI_4)?;
        let angle = self.select(turned, Arg::Value(eighth), Arg::Value(angle))?;
        let rest = self.binary("sub", Arg::Number(FRAC_PI_2), Arg::Value(angle))?;
        let angle = self.select(steep, Arg::Value(rest), Arg::Value(angle))?;
        let negative = self.with("mul", angle, -1.0)?;
        let below = self.compare("lt", Arg::Value(x), Arg::Number(0.0))?;
        self.select(below, Arg::Value(negative), Arg::Value(angle))
    }

    /// (1 - x) `op` (1 + x).
    fn around_one(&mut self, x: IrId, op: &'static str) -> Checked<IrId> {
        let below = self.binary("sub", Arg::Number(1.0), Arg::Value(x))?;
        let above = self.with("add", x, 1.0)?;
        self.both(op, below, above)
    }

    /// (e^x `op` e^-x) / 2; the halves are taken before the product can overflow.
    fn exponentials(&mut self, x: IrId, op: &'static str) -> Checked<IrId> {
        let mut sides = Vec::with_capacity(2);
        for sign in [0.5, -0.5] {
            let half = self.with("mul", x, sign)?;
            let root = self.unary("exp", half)?;
            let halved = self.with("mul", root, 0.5)?;
            sides.push(self.both("mul", halved, root)?);
        }
        self.both(op, sides[0], sides[1])
    }

    /// log(x + root), root being about x where that is large: log(x) + log(2) there.
    fn logarithm_of_sum(&mut self, x: IrId, root: IrId) -> Checked<IrId> {
        let sum = self.both("add", x, root)?;
        let log = self.unary("log", sum)?;
        let large = self.compare("gt", Arg::Value(x), Arg::Number(1e9))?;
        let far = self.unary("log", x)?;
        let far = self.with("add", far, LN_2)?;
        self.select(large, Arg::Value(far), Arg::Value(log))
    }

    /// `near` where |x| < bound, else `far`.
    fn near_else(&mut self, x: IrId, bound: f64, near: IrId, far: IrId) -> Checked<IrId> {
        let size = self.unary("abs", x)?;
        let small = self.compare("lt", Arg::Value(size), Arg::Number(bound))?;
        self.select(small, Arg::Value(near), Arg::Value(far))
    }

    /// x + x³ (c₀ + c₁ x² + ..).
    fn odd(&mut self, x: IrId, coefficients: &[f64]) -> Checked<IrId> {
        let square = self.both("mul", x, x)?;
        let series = self.polynomial(square, coefficients)?;
        let cube = self.both("mul", square, x)?;
        let rest = self.both("mul", series, cube)?;
        self.both("add", x, rest)
    }

    /// c₀ + c₁ z + ..
    fn polynomial(&mut self, z: IrId, coefficients: &[f64]) -> Checked<IrId> {
        let Some((last, rest)) = coefficients.split_last() else { return Err(problem("no coefficients", "Report this")) };
        let mut sum = self.with("mul", z, *last)?;
        for (at, coefficient) in rest.iter().enumerate().rev() {
            sum = self.with("add", sum, *coefficient)?;
            if at > 0 {
                sum = self.both("mul", sum, z)?;
            }
        }
        Ok(sum)
    }
}
