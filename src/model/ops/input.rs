//! Inputs: features, lookups, constants.

use crate::limits::{FEATURES_MAX, VALUE_ELEMENTS_MAX};
use crate::model::error::Fault;
use crate::model::feature::{Feature, FeatureKind};
use crate::model::graph::{DType, ShapeBuf, ValueId};
use crate::model::json::{At, Object};
use crate::model::manifest::pool;
use crate::model::op::{Op, Pool};
use crate::model::resolve::Builder;
use crate::model::table::TableId;
use crate::model::weights::TensorDType;

use super::{Checked, Made, checked_number, dtype, sizes, typed_number};

impl Builder<'_> {
    pub(super) fn dense(&mut self, object: &Object<'_>) -> Checked<Made> {
        let list_at = object.required("features")?;
        let mut features = Vec::new();
        let mut width = 0;
        for at in list_at.list(FEATURES_MAX)? {
            let index = self.feature(&at)?;
            let feature = &self.manifest.features[index];
            if !matches!(feature.kind, FeatureKind::Dense { .. }) {
                return Err(not_of_kind(&at, feature, "dense"));
            }
            width += feature.width as usize;
            features.push(index);
        }
        Ok((Op::Dense { features }, vec![width], DType::F32))
    }

    pub(super) fn integer(&mut self, object: &Object<'_>) -> Checked<Made> {
        let at = object.required("feature")?;
        let index = self.feature(&at)?;
        let feature = &self.manifest.features[index];
        match feature.kind {
            FeatureKind::Integer => Ok((Op::Integer { feature: index }, vec![feature.width as usize], DType::I64)),
            _ => Err(not_of_kind(&at, feature, "integer")),
        }
    }

    pub(super) fn length(&mut self, object: &Object<'_>) -> Checked<Made> {
        let at = object.required("feature")?;
        let index = self.feature(&at)?;
        let feature = &self.manifest.features[index];
        match feature.kind {
            FeatureKind::Sparse { .. } => Ok((Op::Length { feature: index }, vec![], DType::I64)),
            _ => Err(not_of_kind(&at, feature, "sparse")),
        }
    }

    pub(super) fn lookup(&mut self, object: &Object<'_>, out: &str) -> Checked<Made> {
        let pool = object.optional("pool").map(|at| pool(&at).map(|pool| (at, pool))).transpose()?;
        if let Some(at) = object.optional("feature") {
            let table = object.optional("table");
            let (op, shape) = self.one_lookup(&at, table.as_ref(), pool.as_ref())?;
            return Ok((op, shape, DType::F32));
        }
        let list_at = object.optional("features").ok_or_else(|| {
            object.at.fault("neither feature nor features", "\"feature\": NAME or \"features\": [NAME, ..]", "docs/bundle.md, op lookup")
        })?;
        let features = list_at.list(FEATURES_MAX)?;
        let tables = object.optional("tables").map(|at| at.list(FEATURES_MAX).map(|list| (at, list))).transpose()?;
        if let Some((at, list)) = &tables
            && list.len() != features.len()
        {
            return Err(at.wrong(format!("as many tables as features: {}", features.len())));
        }
        // Each lookup [dim] becomes a row [1, dim] of the stack.
        let mut rows: Vec<ValueId> = Vec::new();
        for (i, at) in features.iter().enumerate() {
            let table = tables.as_ref().map(|(_, list)| &list[i]);
            let (op, shape) = self.one_lookup(at, table, pool.as_ref())?;
            let [dim] = shape[..] else {
                return Err(at.fault("pool \"none\"", "a pooled lookup in \"features\"", "Look it up by itself, with \"feature\""));
            };
            if let Some(first) = rows.first().map(|id| self.value(*id).shape[1])
                && first != dim
            {
                let remedy = "Look features of other sizes up apart, then concat";
                return Err(at.fault(format!("rows of {dim} elements"), format!("{first}, as the feature before it"), remedy));
            }
            let x = self.push(at, format!("{out}~{i}"), op, vec![dim], DType::F32)?;
            rows.push(self.push(at, format!("{out}~{i}~row"), Op::Reshape { x }, vec![1, dim], DType::F32)?);
        }
        let Some(dim) = rows.first().map(|id| self.value(*id).shape[1]) else {
            return Err(list_at.wrong("at least one feature"));
        };
        let shape = vec![rows.len(), dim];
        Ok((Op::Concat { xs: rows, axis: 0 }, shape, DType::F32))
    }

    pub(super) fn one_lookup(&self, at: &At<'_>, table_at: Option<&At<'_>>, pool_at: Option<&(At<'_>, Pool)>) -> Checked<(Op, ShapeBuf)> {
        let index = self.feature(at)?;
        let feature = &self.manifest.features[index];
        let FeatureKind::Sparse { table, rows, pool, weighted, .. } = &feature.kind else {
            return Err(not_of_kind(at, feature, "sparse"));
        };
        let (table, spec): (TableId, _) = match table_at {
            None => (*table, self.tables.spec(*table)),
            Some(at) => self.tables.named(at)?,
        };
        if let Some(at) = table_at
            && spec.rows < *rows
        {
            let expected = format!("at least {rows}, the bound of the ids of feature {:?}", feature.name);
            return Err(at.fault(format!("table {:?} of {} rows", spec.name, spec.rows), expected, "Name the larger table in the feature"));
        }
        let pool = pool_at.map_or(*pool, |(_, pool)| *pool);
        if let Some((at, _)) = pool_at
            && *weighted
            && pool == Pool::Max
        {
            let found = format!("pool \"max\" of the weighted feature {:?}", feature.name);
            return Err(at.fault(found, "\"sum\", \"mean\" or \"none\" where ids have weights", "Choose another pool"));
        }
        let dim = spec.dim as usize;
        let shape = if pool == Pool::None { vec![feature.max_len as usize, dim] } else { vec![dim] };
        Ok((Op::Lookup { feature: index, table, pool }, shape))
    }

    pub(super) fn constant(&mut self, object: &Object<'_>) -> Checked<Made> {
        let tensor = self.any_tensor(&object.required("tensor")?)?;
        let found = self.tensor_use(tensor);
        let dtype = match found.dtype {
            TensorDType::F32 => DType::F32,
            TensorDType::I64 => DType::I64,
        };
        Ok((Op::Const { tensor }, found.shape.clone(), dtype))
    }

    pub(super) fn fill(&mut self, object: &Object<'_>) -> Checked<Made> {
        let dtype = dtype(object, "dtype")?.unwrap_or(DType::F32);
        let value = typed_number(&object.required("value")?, dtype)?;
        let shape = object.optional("shape").map(|at| sizes(&at)).transpose()?.unwrap_or_default();
        Ok((Op::Fill { value }, shape, dtype))
    }
}

pub(super) fn iota(object: &Object<'_>) -> Checked<Made> {
    let dtype = dtype(object, "dtype")?.unwrap_or(DType::F32);
    let size = object.required("size")?.count(1, VALUE_ELEMENTS_MAX)?;
    let number = |key, default| object.optional(key).map_or(Ok(default), |at: At<'_>| checked_number(&at, at.number()?, dtype));
    Ok((Op::Iota { start: number("start", 0.0)?, step: number("step", 1.0)? }, vec![size], dtype))
}

fn not_of_kind(at: &At<'_>, feature: &Feature, kind: &str) -> Box<Fault> {
    let found = match feature.kind {
        FeatureKind::Dense { .. } => "dense",
        FeatureKind::Sparse { .. } => "sparse",
        FeatureKind::Integer => "integer",
    };
    let remedy = "Ops by kind: dense reads dense features, lookup and length sparse ones, integer integer ones";
    at.fault(format!("feature {:?} is {found}", feature.name), format!("a {kind} feature"), remedy)
}
