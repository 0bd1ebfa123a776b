//! Which columns of which input become which feature, and which constants become tables.
//!
//! A column whose elements are used as ids alone becomes a sparse feature, looked up in its table. One that is also used as a number (a
//! mask `id != 0`, say) stays a number for the graph, and its rows are fetched by the `embedding` op.

use std::collections::{BTreeSet, HashMap};

use serde_json::json;

use super::constant::Const;
use super::error::{ImportError, problem};
use super::graph::Converted;
use super::ir::{Arg, IrId, Kind, Node, live};
use super::missing;
use super::names::{Names, plain};
use super::rules::{FeatureRule, KindRule, Placed, Rules};
use super::value::Atom;

/// A table: rows of a constant.
#[derive(Clone, Debug)]
pub struct Table {
    /// Name.
    pub name: String,
    /// [rows, dim].
    pub constant: Const,
    /// First row.
    pub start: usize,
    /// Behind the last row.
    pub end: usize,
}

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.end - self.start
    }
    /// Elements per row.
    pub fn dim(&self) -> usize {
        self.constant.shape[1]
    }
}

/// What a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureKind {
    /// f32 values.
    Dense,
    /// Integers for the graph.
    Integer,
    /// Ids of rows of a table.
    Sparse {
        /// Which table bounds them.
        table: usize,
    },
}

/// A feature: columns of an input.
#[derive(Clone, Debug)]
pub struct Feature {
    /// Name.
    pub name: String,
    /// Which input.
    pub input: usize,
    /// First column.
    pub start: usize,
    /// Behind the last column.
    pub end: usize,
    /// What it is.
    pub kind: FeatureKind,
    /// What a person says of it.
    pub rule: FeatureRule,
    /// Ids below this are legal where it is an integer feature that selects rows.
    pub bound: Option<usize>,
    /// It is dense, and all that reads it deals with NaN.
    pub takes_nan: bool,
}

impl Feature {
    /// Values per row.
    pub fn width(&self) -> usize {
        self.end - self.start
    }
}

/// Features and tables of a bundle.
#[derive(Debug, Default)]
pub struct Plan {
    /// In signature order: by input, then by column.
    pub features: Vec<Feature>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Nodes that some output needs.
    pub live: Vec<bool>,
    /// Nodes that fetch rows by the request's own ids.
    pub lookups: Vec<bool>,
    /// Inputs that no output needs.
    pub unused: Vec<String>,
    feature_of: Vec<Vec<Option<usize>>>,
}

impl Plan {
    /// The feature of a column, and its place in it.
    pub fn place(&self, atom: &Atom) -> Option<(usize, usize)> {
        let feature = (*self.feature_of.get(atom.input as usize)?.get(atom.column as usize)?)?;
        Some((feature, atom.column as usize - self.features[feature].start))
    }

    /// The table that holds the rows of a constant from `start`; made if it is new.
    pub fn table(&mut self, names: &mut Names, constant: &Const, start: usize, end: usize) -> usize {
        let same = |table: &Table| table.constant.is_same(constant) && (table.start, table.end) == (start, end);
        if let Some(known) = self.tables.iter().position(same) {
            return known;
        }
        let whole = start == 0 && end == constant.shape[0];
        let name = if whole { names.fresh(&constant.name) } else { names.fresh(&format!("{}.{start}", constant.name)) };
        self.tables.push(Table { name, constant: constant.clone(), start, end });
        self.tables.len() - 1
    }
}

/// How the columns of the graph are used.
struct Uses {
    /// [input][column]: as a number.
    numeric: Vec<Vec<bool>>,
    /// As a number that was not made an integer, other than by comparisons.
    real: Vec<Vec<bool>>,
    /// At all.
    any: Vec<Vec<bool>>,
    /// Made an integer, or selects rows.
    integer: Vec<Vec<bool>>,
}

/// Decides features and tables.
pub fn plan(graph: &Converted, rules: &Rules, names: &mut Names) -> Result<Plan, ImportError> {
    let nodes = &graph.nodes;
    let live = live(nodes, graph.columns.iter().map(|column| column.id));
    let placed = rules.placed(&graph.inputs)?;
    let mut uses = uses(graph, &live);
    for rule in placed.iter().filter(|rule| matches!(rule.rule.kind, Some(KindRule::Dense | KindRule::Integer))) {
        uses.numeric[rule.input][rule.start..rule.end].fill(true);
    }
    let mut plan = Plan { lookups: lookups(nodes, &live, &mut uses), live, ..Plan::default() };
    let tables = lookup_tables(nodes, &mut plan, names);
    for input in 0..graph.inputs.len() {
        plan_input(graph, input, &uses, &placed, &tables, &mut plan, rules)?;
    }
    let takes_nan = missing::taken(graph, &plan.live);
    for feature in plan.features.iter_mut().filter(|feature| feature.kind == FeatureKind::Dense) {
        feature.takes_nan = !takes_nan[feature.input][feature.start..feature.end].contains(&false);
        if feature.takes_nan && feature.rule.nan.is_none() {
            feature.rule.nan = Some(json!("keep"));
        }
    }
    Ok(plan)
}

fn uses(graph: &Converted, live: &[bool]) -> Uses {
    let none = || graph.inputs.iter().map(|input| vec![false; input.len()]).collect::<Vec<_>>();
    let mut uses = Uses { numeric: none(), real: none(), any: none(), integer: none() };
    // Values that something other than a comparison reads.
    let mut read = vec![false; graph.nodes.len()];
    graph.columns.iter().for_each(|column| read[column.id.0] = true);
    for (node, _) in graph.nodes.iter().zip(live).filter(|(_, live)| **live) {
        if let Kind::Step(step) = &node.kind
            && step.op != "compare"
        {
            node.kind.reads().into_iter().for_each(|id| read[id.0] = true);
        }
    }
    for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| live[*index]) {
        match &node.kind {
            Kind::Source { atoms, integer } => {
                for atom in atoms.iter() {
                    let (input, column) = (atom.input as usize, atom.column as usize);
                    uses.numeric[input][column] = true;
                    uses.any[input][column] = true;
                    uses.integer[input][column] |= integer;
                    uses.real[input][column] |= !integer && read[index];
                }
            }
            Kind::Embed { atoms, .. } => {
                for atom in atoms.iter() {
                    uses.any[atom.input as usize][atom.column as usize] = true;
                    uses.integer[atom.input as usize][atom.column as usize] = true;
                }
            }
            _ => {}
        }
    }
    uses
}

/// Which nodes fetch rows by ids that nothing else reads. What they read otherwise becomes a number.
fn lookups(nodes: &[Node], live: &[bool], uses: &mut Uses) -> Vec<bool> {
    let mut lookups: Vec<bool> = nodes.iter().zip(live).map(|(node, live)| *live && matches!(node.kind, Kind::Embed { .. })).collect();
    loop {
        let mut changed = false;
        for index in 0..nodes.len() {
            let Kind::Embed { table, atoms, .. } = &nodes[index].kind else { continue };
            if !lookups[index] {
                continue;
            }
            let cut = cuts(nodes, &lookups, table);
            let fits = |atom: &Atom| {
                let start = usize::try_from(atom.offset).ok().filter(|start| *start < table.shape[0]);
                let numeric = uses.numeric[atom.input as usize][atom.column as usize];
                // A part of two rows at least: smaller ones are offsets for reserved ids, not tables side by side.
                !numeric && start.is_some_and(|start| start == 0 && cut.len() == 1 || end_of(&cut, start, table) >= start + 2)
            };
            if !atoms.iter().all(fits) {
                lookups[index] = false;
                changed = true;
                for atom in atoms.iter() {
                    uses.numeric[atom.input as usize][atom.column as usize] = true;
                }
            }
        }
        if !changed {
            return lookups;
        }
    }
}

/// Where the parts of a table begin: the constants added to ids before they select its rows.
fn cuts(nodes: &[Node], lookups: &[bool], table: &Const) -> BTreeSet<usize> {
    let mut cuts = BTreeSet::new();
    for (node, _) in nodes.iter().zip(lookups).filter(|(_, lookup)| **lookup) {
        if let Kind::Embed { table: own, atoms, .. } = &node.kind
            && own.is_same(table)
        {
            cuts.extend(atoms.iter().filter_map(|atom| usize::try_from(atom.offset).ok()));
        }
    }
    cuts
}

/// Where the part of a table that begins at `start` ends.
fn end_of(cuts: &BTreeSet<usize>, start: usize, table: &Const) -> usize {
    cuts.range(start + 1..).next().copied().unwrap_or(table.shape[0]).min(table.shape[0])
}

/// The tables of all lookups: per column, those that its ids select from.
fn lookup_tables(nodes: &[Node], plan: &mut Plan, names: &mut Names) -> HashMap<(u32, u32), Vec<usize>> {
    let mut tables: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    let mut known: Vec<(Const, BTreeSet<usize>)> = Vec::new();
    for index in 0..nodes.len() {
        let Kind::Embed { table, atoms, .. } = &nodes[index].kind else { continue };
        if !plan.lookups[index] {
            continue;
        }
        let cut = match known.iter().find(|(constant, _)| constant.is_same(table)) {
            Some((_, cut)) => cut.clone(),
            None => {
                let cut = cuts(nodes, &plan.lookups, table);
                known.push((table.clone(), cut.clone()));
                cut
            }
        };
        for atom in atoms.iter() {
            let start = atom.offset as usize;
            let id = plan.table(names, table, start, end_of(&cut, start, table));
            let own = tables.entry((atom.input, atom.column)).or_default();
            if !own.contains(&id) {
                own.push(id);
            }
        }
    }
    tables
}

/// The table from which a lookup takes the rows of `atom`.
pub fn table_of(plan: &Plan, table: &Const, atom: &Atom) -> Option<usize> {
    plan.tables.iter().position(|own| own.constant.is_same(table) && Ok(own.start) == usize::try_from(atom.offset))
}

#[allow(clippy::too_many_arguments)]
fn plan_input(
    graph: &Converted,
    input: usize,
    uses: &Uses,
    placed: &[Placed],
    tables: &HashMap<(u32, u32), Vec<usize>>,
    plan: &mut Plan,
    rules: &Rules,
) -> Result<(), ImportError> {
    let spec = &graph.inputs[input];
    let width = spec.len();
    let any = &uses.any[input];
    plan.feature_of.push(vec![None; width]);
    if !any.contains(&true) {
        plan.unused.push(spec.name.clone());
        return Ok(());
    }
    let own: Vec<&Placed> = placed.iter().filter(|rule| rule.input == input).collect();
    let kind_of = |column: usize| -> FeatureKind {
        if let Some(ids) = tables.get(&(input as u32, column as u32)).filter(|_| !uses.numeric[input][column]) {
            let table = ids.iter().copied().min_by_key(|id| plan.tables[*id].rows()).unwrap_or_default();
            return FeatureKind::Sparse { table };
        }
        let wish = own.iter().rev().find(|rule| rule.start <= column && column < rule.end && rule.rule.kind.is_some());
        match wish.and_then(|rule| rule.rule.kind) {
            Some(KindRule::Dense) => FeatureKind::Dense,
            Some(KindRule::Integer) => FeatureKind::Integer,
            _ if !spec.elem.is_float() => FeatureKind::Integer,
            _ if uses.integer[input][column] && !uses.real[input][column] => FeatureKind::Integer,
            _ => FeatureKind::Dense,
        }
    };
    let kinds: Vec<FeatureKind> = (0..width).map(kind_of).collect();
    let used: Vec<usize> = (0..width).filter(|column| any[*column]).collect();
    let first = kinds[used[0]];
    let split_by_rule = own.iter().any(|rule| !rule.whole || rule.rule.names.is_some());
    let sparse = used.iter().any(|column| matches!(kinds[*column], FeatureKind::Sparse { .. }));
    let whole = !sparse && !split_by_rule && used.iter().all(|column| kinds[*column] == first);
    let mut segments: Vec<(usize, usize)> = Vec::new();
    if whole {
        segments.push((0, width));
    } else {
        let joints = joints(graph, plan, input, width);
        let mut borders = vec![false; width + 1];
        for rule in &own {
            if rule.rule.names.is_some() {
                borders[rule.start..rule.end].fill(true);
            }
            if !rule.whole {
                (borders[rule.start], borders[rule.end]) = (true, true);
            }
        }
        let named_range =
            |a: usize, b: usize| own.iter().any(|rule| !rule.whole && rule.rule.names.is_none() && rule.start <= a && b < rule.end);
        for column in used {
            match segments.last_mut() {
                Some((_, end))
                    if *end == column
                        && !borders[column]
                        && kinds[column - 1] == kinds[column]
                        && (joints[column - 1]
                            || (named_range(column - 1, column) && !matches!(kinds[column], FeatureKind::Sparse { .. }))) =>
                {
                    *end += 1;
                }
                _ => segments.push((column, column + 1)),
            }
        }
    }
    for (start, end) in segments {
        let default = match (whole || (start, end) == (0, width), end - start) {
            (true, _) => spec.name.clone(),
            (_, 1) => format!("{}.{start}", spec.name),
            _ => format!("{}.{start}-{}", spec.name, end - 1),
        };
        let (rule, name) = merged(&own, start, end, rules)?;
        let kind = kinds[start];
        check_kind(&own, start, end, kind, spec.elem.is_float(), rules)?;
        let name = match name {
            Some(name) if plain(&name) != name => {
                let remedy = "Use up to 112 ASCII letters, digits and _-.:/@+#=";
                return Err(rules.fault("features", problem(format!("the name {name:?}"), remedy)));
            }
            Some(name) => name,
            None => plain(&default),
        };
        if plan.features.iter().any(|feature| feature.name == name) {
            let what = format!("a second feature {name:?} (columns {start} to {} of input {:?})", end - 1, spec.name);
            return Err(rules.fault("features", problem(what, "Give each feature a name of its own")));
        }
        let bound = bound(graph, plan, input, start, end);
        plan.feature_of[input][start..end].fill(Some(plan.features.len()));
        plan.features.push(Feature { name, input, start, end, kind, rule, bound, takes_nan: false });
    }
    Ok(())
}

/// `[c]`: columns c and c + 1 are neighbours in every node that selects rows by either of them.
fn joints(graph: &Converted, plan: &Plan, input: usize, width: usize) -> Vec<bool> {
    let mut together = vec![false; width];
    let mut apart = vec![false; width];
    for (node, _) in graph.nodes.iter().zip(&plan.live).filter(|(_, live)| **live) {
        let Kind::Embed { atoms, ids, .. } = &node.kind else { continue };
        let line = ids.last().copied().unwrap_or(1).max(1);
        for chunk in atoms.chunks(line) {
            for (i, atom) in chunk.iter().enumerate().filter(|(_, atom)| atom.input as usize == input) {
                let column = atom.column as usize;
                let follows = |a: &Atom, b: &Atom| *b == (Atom { column: a.column.wrapping_add(1), ..*a });
                if chunk.get(i + 1).is_some_and(|next| follows(atom, next)) {
                    together[column] = true;
                } else {
                    apart[column] = true;
                }
                if column > 0 && !(i > 0 && follows(&chunk[i - 1], atom)) {
                    apart[column - 1] = true;
                }
            }
        }
    }
    together.into_iter().zip(apart).map(|(together, apart)| together && !apart).collect()
}

/// Rows of the smallest table that computed ids of these columns select from.
fn bound(graph: &Converted, plan: &Plan, input: usize, start: usize, end: usize) -> Option<usize> {
    let mut least = None;
    for (node, _) in graph.nodes.iter().zip(&plan.live).filter(|(_, live)| **live) {
        let Kind::Embed { atoms, table, .. } = &node.kind else { continue };
        for atom in atoms.iter().filter(|atom| atom.input as usize == input && (start..end).contains(&(atom.column as usize))) {
            let rows = (table.shape[0] as i64).saturating_sub(atom.offset.max(0)).max(1) as usize;
            least = Some(least.map_or(rows, |least: usize| least.min(rows)));
        }
    }
    // An index that is computed further: through casts alone.
    for (node, _) in graph.nodes.iter().zip(&plan.live).filter(|(_, live)| **live) {
        let Kind::Step(step) = &node.kind else { continue };
        let rows = match (step.op, &step.table) {
            ("embedding", Some(table)) => table.shape[0],
            _ => continue,
        };
        let reads_columns = |id: &IrId| match &graph.nodes[id.0].kind {
            Kind::Source { atoms, .. } => {
                atoms.iter().any(|atom| atom.input as usize == input && (start..end).contains(&(atom.column as usize)))
            }
            _ => false,
        };
        if step.inputs.iter().any(|(_, arg)| matches!(arg, Arg::Value(id) if reads_columns(id))) {
            least = Some(least.map_or(rows, |least: usize| least.min(rows)));
        }
    }
    least
}

/// What the rules say of columns: wide ones first, narrower ones on top. Error: a name for a part of what it names.
fn merged(own: &[&Placed], start: usize, end: usize, rules: &Rules) -> Result<(FeatureRule, Option<String>), ImportError> {
    let mut rule = FeatureRule::default();
    let mut name = None;
    for placed in own.iter().filter(|placed| placed.start <= start && end <= placed.end) {
        let FeatureRule { name: own_name, names, scope, kind, hash, padding, missing, out_of_range, id_type, transform, nan } =
            placed.rule.clone();
        if let Some(own_name) = own_name {
            if (placed.start, placed.end) != (start, end) {
                let what = format!("one name for columns of which {start} to {} are a feature of their own", end - 1);
                return Err(rules
                    .fault(&format!("features.{:?}.name", placed.key), problem(what, "Give names, one per column, or a key per feature")));
            }
            name = Some(own_name);
        }
        if let Some(names) = names {
            name = names.get(start - placed.start).cloned();
        }
        rule.scope = scope.or(rule.scope);
        rule.kind = kind.or(rule.kind);
        rule.hash = hash.or(rule.hash);
        rule.padding = padding.or(rule.padding);
        rule.missing = missing.or(rule.missing);
        rule.out_of_range = out_of_range.or(rule.out_of_range);
        rule.id_type = id_type.or(rule.id_type);
        rule.transform = transform.or(rule.transform);
        rule.nan = nan.or(rule.nan);
    }
    Ok((rule, name))
}

fn check_kind(own: &[&Placed], start: usize, end: usize, kind: FeatureKind, float: bool, rules: &Rules) -> Result<(), ImportError> {
    let Some(placed) = own.iter().rev().find(|placed| placed.start <= start && end <= placed.end && placed.rule.kind.is_some()) else {
        return Ok(());
    };
    let place = format!("features.{:?}.kind", placed.key);
    match (placed.rule.kind, kind) {
        (Some(KindRule::Sparse), FeatureKind::Dense | FeatureKind::Integer) => {
            let what = "sparse, but the graph reads these columns as numbers too, or selects no rows by them";
            Err(rules.fault(&place, problem(what, "Remove the key: the columns stay numbers, and rows are fetched inside the graph")))
        }
        (Some(KindRule::Dense), FeatureKind::Dense) if !float => {
            Err(rules.fault(&place, problem("dense, but the input holds integers", "Use integer, or export the model with float inputs")))
        }
        _ => Ok(()),
    }
}
