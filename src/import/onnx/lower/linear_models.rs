//! ai.onnx.ml beside the trees: what stands around them in converted pipelines.

use crate::model::DType;

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::Arg;
use super::super::node::Node;
use super::super::value::Value;
use super::Lower;
use super::normalize::TINY;
use super::ops::{first, input};

const DAMAGED: &str = "The file is damaged: convert the model again";

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

impl Lower {
    /// The values of a node of ai.onnx.ml.
    pub fn machine_learning(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let one = |value: Checked<Value>| value.map(|value| vec![value]);
        match node.proto.op_type.as_str() {
            "TreeEnsembleRegressor" => self.tree_regressor(node, inputs),
            "TreeEnsembleClassifier" => self.tree_classifier(node, inputs),
            "TreeEnsemble" => self.tree_ensemble(node, inputs),
            "ZipMap" => Ok(vec![first(inputs)?.clone()]),
            "Scaler" => one(self.scaler(node, inputs)),
            "Normalizer" => one(self.normalizer(node, inputs)),
            "Imputer" => one(self.imputer(node, inputs)),
            "FeatureVectorizer" => one(self.feature_vectorizer(inputs)),
            "ArrayFeatureExtractor" => one(self.array_feature_extractor(inputs)),
            "Binarizer" => one(self.binarizer(node, inputs)),
            "OneHotEncoder" => one(self.one_hot_encoder(node, inputs)),
            "LinearRegressor" => one(self.linear_regressor(node, inputs)),
            "LinearClassifier" => self.linear_classifier(node, inputs),
            "LabelEncoder" | "CategoryMapper" | "DictVectorizer" | "CastMap" => {
                Err(problem("this op cannot be imported", "Map categories to ids before the model"))
            }
            _ => Err(problem("this op cannot be imported", "docs/import.md lists the ops of ai.onnx.ml that are taken")),
        }
    }

    /// (x − offset) · scale.
    fn scaler(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (row, x) = self.features(first(inputs)?)?;
        let mut id = x;
        for (name, op) in [("offset", "sub"), ("scale", "mul")] {
            let values = widened(node.floats(name));
            if values.is_empty() {
                continue;
            }
            if values.len() != 1 && values.len() != row.shape[0] {
                return Err(problem(format!("{} values of {name} for {} features", values.len(), row.shape[0]), DAMAGED));
            }
            let constant = self.f32s(&format!(".{name}"), vec![values.len()], values);
            let constant = self.lift(&constant)?;
            id = self.both(op, id, constant)?;
        }
        Ok(self.like(&row, Elem::F32, id))
    }

    fn normalizer(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (row, x) = self.features(first(inputs)?)?;
        let size = match node.text("norm", "MAX") {
            "MAX" => {
                let size = self.unary("abs", x)?;
                self.reduce("reduce_max", size, &[0], true)?
            }
            "L1" => self.reduced("ReduceL1", x, &[0], true)?,
            "L2" => self.reduced("ReduceL2", x, &[0], true)?,
            other => return Err(problem(format!("the norm {other}"), "Use MAX, L1 or L2")),
        };
        let size = self.with("max", size, TINY)?;
        let id = self.both("div", x, size)?;
        Ok(self.like(&row, Elem::F32, id))
    }

    fn imputer(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (row, x) = self.features(first(inputs)?)?;
        let values = widened(node.floats("imputed_value_floats"));
        if values.len() != 1 && values.len() != row.shape[0] {
            return Err(problem(format!("{} imputed values for {} features", values.len(), row.shape[0]), DAMAGED));
        }
        let replaced = node.float("replaced_value_float", 0.0);
        let missing = if replaced.is_nan() {
            self.compare("ne", Arg::Value(x), Arg::Value(x))?
        } else {
            self.compare("eq", Arg::Value(x), Arg::Number(replaced))?
        };
        let constant = self.f32s(".imputed", vec![values.len()], values);
        let constant = self.lift(&constant)?;
        let id = self.select(missing, Arg::Value(constant), Arg::Value(x))?;
        Ok(self.like(&row, Elem::F32, id))
    }

    fn feature_vectorizer(&mut self, inputs: &[Value]) -> Checked<Value> {
        let mut parts = Vec::new();
        let mut like = None;
        for value in inputs {
            let row = self.batch_first(value, "puts values side by side")?;
            let x = self.ir(&row)?;
            let x = self.cast(x, DType::F32)?;
            let width = row.shape.iter().product();
            parts.push(self.reshaped(x, &[width])?);
            like = Some(row);
        }
        let Some(like) = like else { return Err(problem("no inputs", DAMAGED)) };
        let id = self.concat(&parts, 0)?;
        Ok(self.like(&like, Elem::F32, id))
    }

    /// Elements of the last axis.
    fn array_feature_extractor(&mut self, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let axis = value.rank().checked_sub(1).ok_or_else(|| problem("a value without axes", DAMAGED))?;
        let indices = super::ops::known(input(inputs, 1)?, "indices")?;
        let size = value.dims()[axis].known().ok_or_else(|| super::super::value::mixes("takes elements"))?;
        let indices: Option<Vec<usize>> = indices.iter().map(|i| usize::try_from(*i).ok().filter(|i| (*i as i64) < size)).collect();
        let indices = indices.ok_or_else(|| problem("an index that is out of range", DAMAGED))?;
        self.pick(value, axis, indices, "takes elements")
    }

    fn binarizer(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let threshold = node.float("threshold", 0.0);
        self.each(first(inputs)?, |lower, x| {
            let above = lower.compare("gt", Arg::Value(x), Arg::Number(threshold))?;
            lower.cast(above, DType::F32)
        })
    }

    fn one_hot_encoder(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let Some(categories) = node.ints("cats_int64s") else {
            return Err(problem("categories that are strings", "Map strings to ids before the model"));
        };
        if node.int("zeros", 1) == 0 || categories.is_empty() {
            return Err(problem("zeros = 0, or no categories", "Use zeros = 1: an unknown category gives zeros"));
        }
        let row = self.row(first(inputs)?)?;
        let x = self.ir(&row)?;
        let apart = [&row.shape[..], &[1]].concat();
        let x = self.reshaped(x, &apart)?;
        let elem = if row.elem.is_float() { Elem::F32 } else { Elem::I64 };
        let values = categories.iter().map(|category| *category as f64).collect();
        let all = self.lift(&Const::numbers(&format!("{}.categories", self.label), elem, vec![categories.len()], values))?;
        let hit = self.compare("eq", Arg::Value(x), Arg::Value(all))?;
        let id = self.cast(hit, DType::F32)?;
        Ok(self.like(&row, Elem::F32, id))
    }

    /// X · coefficientsᵀ + intercepts.
    fn scores(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<(super::super::value::Row, super::super::ir::IrId)> {
        let (row, x) = self.features(first(inputs)?)?;
        let (coefficients, intercepts) = (widened(node.floats("coefficients")), widened(node.floats("intercepts")));
        let features = row.shape[0];
        if coefficients.is_empty() || coefficients.len() % features != 0 {
            return Err(problem(format!("{} coefficients for {features} features", coefficients.len()), DAMAGED));
        }
        let targets = coefficients.len() / features;
        let weight = self.f32s(".coefficients", vec![targets, features], coefficients);
        let bias = (intercepts.len() == targets).then(|| self.f32s(".intercepts", vec![targets], intercepts));
        let id = self.linear(x, weight, bias)?;
        Ok((row, id))
    }

    fn linear_regressor(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (row, id) = self.scores(node, inputs)?;
        let id = self.post_transform(id, node.text("post_transform", "NONE"))?;
        Ok(self.like(&row, Elem::F32, id))
    }

    fn linear_classifier(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        let (row, id) = self.scores(node, inputs)?;
        let post = node.text("post_transform", "NONE");
        let id = match (self.shape(id)[0], post) {
            (1, "LOGISTIC") => {
                let minus = self.with("mul", id, -1.0)?;
                let both = self.concat(&[minus, id], 0)?;
                self.unary("sigmoid", both)?
            }
            (1, _) => return Err(problem("one score for two classes", "Convert the model with LOGISTIC")),
            _ => self.post_transform(id, post)?,
        };
        Ok(vec![Value::Absent, self.like(&row, Elem::F32, id)])
    }
}
