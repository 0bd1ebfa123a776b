//! Arguments of ops that are more than a value, a tensor or a number.

use super::graph::ValueId;
use super::weights::TensorId;

/// A function of one f32 element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryFn {
    /// |x|.
    Abs,
    /// eˣ.
    Exp,
    /// ln x: −∞ at 0, NaN below.
    Log,
    /// √x: NaN below 0.
    Sqrt,
    /// Hyperbolic tangent.
    Tanh,
    /// 2/√π · ∫₀ˣ e^(−t²) dt.
    Erf,
    /// Largest integer that is not above x.
    Floor,
    /// −1, 0 or 1; NaN stays.
    Sign,
    /// Of x in radians.
    Sin,
    /// Of x in radians.
    Cos,
    /// ln(1 + eˣ).
    Softplus,
}

impl UnaryFn {
    /// All of them.
    pub const ALL: [UnaryFn; 11] = [
        UnaryFn::Abs,
        UnaryFn::Exp,
        UnaryFn::Log,
        UnaryFn::Sqrt,
        UnaryFn::Tanh,
        UnaryFn::Erf,
        UnaryFn::Floor,
        UnaryFn::Sign,
        UnaryFn::Sin,
        UnaryFn::Cos,
        UnaryFn::Softplus,
    ];

    /// Its op in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            UnaryFn::Abs => "abs",
            UnaryFn::Exp => "exp",
            UnaryFn::Log => "log",
            UnaryFn::Sqrt => "sqrt",
            UnaryFn::Tanh => "tanh",
            UnaryFn::Erf => "erf",
            UnaryFn::Floor => "floor",
            UnaryFn::Sign => "sign",
            UnaryFn::Sin => "sin",
            UnaryFn::Cos => "cos",
            UnaryFn::Softplus => "softplus",
        }
    }
}

/// How two elements are compared. With a NaN only `Ne` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// a < b.
    Lt,
    /// a ≤ b.
    Le,
    /// a > b.
    Gt,
    /// a ≥ b.
    Ge,
    /// a = b.
    Eq,
    /// a ≠ b.
    Ne,
}

impl Comparison {
    /// Names in the manifest.
    pub const NAMES: [(&'static str, Comparison); 6] = [
        ("lt", Comparison::Lt),
        ("le", Comparison::Le),
        ("gt", Comparison::Gt),
        ("ge", Comparison::Ge),
        ("eq", Comparison::Eq),
        ("ne", Comparison::Ne),
    ];

    /// Whether it holds.
    #[inline(always)]
    pub fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Comparison::Lt => a < b,
            Comparison::Le => a <= b,
            Comparison::Gt => a > b,
            Comparison::Ge => a >= b,
            Comparison::Eq => a == b,
            Comparison::Ne => a != b,
        }
    }
}

/// A function of two truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogicFn {
    /// Both.
    And,
    /// At least one.
    Or,
    /// Exactly one.
    Xor,
}

impl LogicFn {
    /// Its op in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            LogicFn::And => "and",
            LogicFn::Or => "or",
            LogicFn::Xor => "xor",
        }
    }
}

/// What becomes of the elements along reduced axes, besides their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Sum divided by their number.
    Mean,
    /// The largest; NaN if there is one.
    Max,
    /// The smallest; NaN if there is one.
    Min,
    /// Product.
    Prod,
}

impl Reduction {
    /// Its op in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Reduction::Mean => "reduce_mean",
            Reduction::Max => "reduce_max",
            Reduction::Min => "reduce_min",
            Reduction::Prod => "reduce_prod",
        }
    }
}

/// A window that moves over the last axes of a value; one entry per such axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Elements of the window.
    pub kernel: Vec<usize>,
    /// Elements from one position of the window to the next.
    pub strides: Vec<usize>,
    /// Elements from one element of the window to the next.
    pub dilations: Vec<usize>,
    /// Elements that are thought before and behind the axis.
    pub pads: Vec<(usize, usize)>,
}

impl Window {
    /// Number of positions along each axis, for axes of these sizes; None where the window is larger than a padded axis.
    pub fn positions(&self, sizes: &[usize]) -> Option<Vec<usize>> {
        let along = |axis: usize| {
            let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            let padded = sizes[axis] + self.pads[axis].0 + self.pads[axis].1;
            Some(padded.checked_sub(reach)? / self.strides[axis] + 1)
        };
        (0..sizes.len()).map(along).collect()
    }

    /// Where along `axis`, of `size` elements, element `tap` of the window lies at `position`; None in the padding.
    #[inline]
    pub fn source(&self, axis: usize, size: usize, position: usize, tap: usize) -> Option<usize> {
        let padded = position * self.strides[axis] + tap * self.dilations[axis];
        padded.checked_sub(self.pads[axis].0).filter(|at| *at < size)
    }
}

/// How attention enters a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GruKind {
    /// Not at all: h' = (1 − z)·n + z·h.
    Gru,
    /// It replaces the update gate: h' = (1 − a)·h + a·n.
    Agru,
    /// It scales the update gate: u = a·z, h' = (1 − u)·h + u·n.
    Augru,
}

impl GruKind {
    /// Names in the manifest.
    pub const NAMES: [(&'static str, GruKind); 3] = [("gru", GruKind::Gru), ("agru", GruKind::Agru), ("augru", GruKind::Augru)];
}

/// A recurrent layer. Gates lie in the order r, z, n; H is the size of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gru {
    /// Sequence `[T, I]`.
    pub x: ValueId,
    /// Input weights `[3H, I]`.
    pub w_ih: TensorId,
    /// State weights `[3H, H]`.
    pub w_hh: TensorId,
    /// Input biases `[3H]`.
    pub b_ih: Option<TensorId>,
    /// State biases `[3H]`.
    pub b_hh: Option<TensorId>,
    /// First state `[H]`; zeros if absent.
    pub h0: Option<ValueId>,
    /// i64 `[]`: steps that are taken.
    pub length: Option<ValueId>,
    /// `[T]`; there exactly if the kind needs it.
    pub attention: Option<ValueId>,
    /// How attention enters.
    pub kind: GruKind,
    /// Whether r scales the state's product (torch) or the state itself (the original paper).
    pub reset_after: bool,
    /// From the last step to the first.
    pub reverse: bool,
    /// Give the final state `[H]` rather than all states `[T, H]`.
    pub last: bool,
}

/// An ensemble of decision trees as parallel tensors. Children lie behind their parents (checked at load), so every walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trees {
    /// Features `[F]`.
    pub x: ValueId,
    /// I64 `[nodes]`: which feature is looked at; at a leaf, the row of `leaves`.
    pub feature: TensorId,
    /// F32 `[nodes]`.
    pub threshold: TensorId,
    /// I64 `[nodes]`: a [`TreeMode`] by its number.
    pub mode: TensorId,
    /// I64 `[nodes]`: next node where the comparison holds.
    pub yes: TensorId,
    /// I64 `[nodes]`: next node where it does not.
    pub no: TensorId,
    /// I64 `[nodes]`: 1 where NaN takes the way of `yes`.
    pub missing_yes: Option<TensorId>,
    /// I64 `[trees]`: first nodes.
    pub roots: TensorId,
    /// F32 `[leaves, targets]`.
    pub leaves: TensorId,
}

/// What a node of a tree does with its feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeMode {
    /// Nothing: it is a leaf.
    Leaf,
    /// Compares it with the threshold.
    Branch(Comparison),
}

impl TreeMode {
    /// The mode of this number.
    pub fn of(number: i64) -> Option<TreeMode> {
        Some(match number {
            0 => TreeMode::Leaf,
            1 => TreeMode::Branch(Comparison::Le),
            2 => TreeMode::Branch(Comparison::Lt),
            3 => TreeMode::Branch(Comparison::Ge),
            4 => TreeMode::Branch(Comparison::Gt),
            5 => TreeMode::Branch(Comparison::Eq),
            6 => TreeMode::Branch(Comparison::Ne),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_their_positions() {
        let window = |kernel, stride, dilation, pads| Window {
            kernel: vec![kernel],
            strides: vec![stride],
            dilations: vec![dilation],
            pads: vec![pads],
        };
        assert_eq!(window(3, 1, 1, (0, 0)).positions(&[5]), Some(vec![3]));
        assert_eq!(window(3, 2, 1, (1, 0)).positions(&[5]), Some(vec![2]));
        assert_eq!(window(3, 1, 2, (0, 0)).positions(&[5]), Some(vec![1]));
        assert_eq!(window(3, 1, 2, (0, 0)).positions(&[4]), None);
        let padded = window(3, 2, 1, (1, 1));
        let taps = |position| (0..3).map(|tap| padded.source(0, 4, position, tap)).collect::<Vec<_>>();
        assert_eq!(padded.positions(&[4]), Some(vec![2]));
        assert_eq!((taps(0), taps(1)), (vec![None, Some(0), Some(1)], vec![Some(1), Some(2), Some(3)]));
    }
}
