//! Features and tables that cannot be.

use serde_json::{Value, json};

use crate::{check, with_manifest};

#[test]
fn wrong_features_and_tables() {
    let cases: Vec<(&str, (&str, Value), &str)> = vec![
        (
            "unknown key of a feature",
            ("/features/1/poool", json!("sum")),
            "DIR/manifest.json: features[1]: unknown key \"poool\"; expected only name, kind, scope, width, max_len, id_type, \
             table, pool, weighted, hash, padding, missing, out_of_range. Did you mean \"pool\"?",
        ),
        (
            "key of another kind of feature",
            ("/features/0/table", json!("ad")),
            "DIR/manifest.json: features[0]: unknown key \"table\"; expected only name, kind, scope, width, transform, nan. \
             Remove the key",
        ),
        (
            "missing key",
            ("/features/1/scope", json!(null)),
            "DIR/manifest.json: features[1]: no key \"scope\"; expected one. docs/bundle.md lists the keys",
        ),
        (
            "name",
            ("/features/1/name", json!("a d")),
            "DIR/manifest.json: features[1].name: the name \"a d\"; expected 1 to 128 ASCII letters, digits and _-.:/@+#=. \
             Choose another name",
        ),
        (
            "long name",
            ("/features/1/name", json!("a".repeat(129))),
            r#"DIR/manifest.json: features[1].name: the name "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"...; expected 1 to 128 ASCII letters, digits and _-.:/@+#=. Choose another name"#,
        ),
        (
            "second feature",
            ("/features/1/name", json!("ctr")),
            "DIR/manifest.json: features[1].name: a second feature \"ctr\"; expected each name once. Rename one of the two",
        ),
        (
            "kind",
            ("/features/1/kind", json!("spars")),
            "DIR/manifest.json: features[1].kind: \"spars\"; expected one of \"dense\", \"sparse\", \"integer\". Did you mean \
             \"sparse\"?",
        ),
        (
            "scope",
            ("/features/1/scope", json!("user")),
            "DIR/manifest.json: features[1].scope: \"user\"; expected one of \"context\", \"candidate\". Choose one of them",
        ),
        (
            "width and max_len",
            ("/features/1", json!({"name": "ad", "kind": "sparse", "scope": "candidate", "table": "ad", "width": 1, "max_len": 3})),
            "DIR/manifest.json: features[1].max_len: both width and max_len; expected width (always so many ids) or max_len \
             (0 to so many ids). Remove one of the two",
        ),
        (
            "max_len",
            ("/features/1/max_len", json!(65536)),
            "DIR/manifest.json: features[1].max_len: 65536; expected an integer from 1 to 65535. Correct the value",
        ),
        (
            "width",
            ("/features/0/width", json!(0)),
            "DIR/manifest.json: features[0].width: 0; expected an integer from 1 to 65536. Correct the value",
        ),
        (
            "table of a feature",
            ("/features/1/table", json!("adds")),
            "DIR/manifest.json: features[1].table: no table \"adds\"; expected the name of an entry of tables. Check the \
             spelling",
        ),
        (
            "weighted max",
            ("/features/1", json!({"name": "ad", "kind": "sparse", "scope": "candidate", "table": "ad", "weighted": true, "pool": "max"})),
            "DIR/manifest.json: features[1]: weighted, and pool \"max\"; expected pool \"sum\", \"mean\" or \"none\" where ids \
             have weights. Set another pool, or weighted to false",
        ),
        (
            "hash beyond the table",
            ("/features/1/hash", json!({"fn": "fnv1a64", "mod": 3, "add": 1})),
            "DIR/manifest.json: features[1].hash: rows 1 to 1 + 3 - 1; expected rows below 3 (table \"ad\"). Lower mod or \
             add, or give the table more rows",
        ),
        (
            "hash function",
            ("/features/1/hash", json!({"fn": "murmur", "mod": 3})),
            "DIR/manifest.json: features[1].hash.fn: \"murmur\"; expected one of \"identity\", \"fnv1a64\", \"splitmix64\". \
             Choose one of them",
        ),
        (
            "missing rule beyond the table",
            ("/features/1/missing", json!({"row": 3})),
            "DIR/manifest.json: features[1].missing.row: 3; expected an integer from 0 to 2. Correct the value",
        ),
        (
            "missing rule",
            ("/features/1/missing", json!("zero")),
            "DIR/manifest.json: features[1].missing: \"zero\"; expected one of \"error\", \"skip\". Choose one of them",
        ),
        (
            "range rule of a hashed feature",
            (
                "/features/1",
                json!({"name": "ad", "kind": "sparse", "scope": "candidate", "table": "ad", "hash": {"fn": "identity", "mod": 3}, "out_of_range": {"row": 0}}),
            ),
            "DIR/manifest.json: features[1].out_of_range: a rule for a hashed feature; expected none: a hashed id is always \
             in range. Remove the key",
        ),
        (
            "nan word",
            ("/features/0/nan", json!("skip")),
            "DIR/manifest.json: features[0].nan: \"skip\"; expected one of \"error\", \"keep\". Choose one of them",
        ),
        (
            "nan number",
            ("/features/0/nan", json!(0)),
            "DIR/manifest.json: features[0].nan: 0; expected \"error\", \"keep\" or {\"value\": x}. Correct the value",
        ),
        (
            "nan rule",
            ("/features/0/nan", json!({"value": 1e300})),
            "DIR/manifest.json: features[0].nan.value: 1e300; expected a number that f32 holds. Correct the value",
        ),
        (
            "transform",
            ("/features/0/transform", json!("log")),
            "DIR/manifest.json: features[0].transform: \"log\"; expected one of \"none\", \"log1p_clamp0\". Choose one of \
             them",
        ),
        (
            "no features",
            ("/features", json!([])),
            "DIR/manifest.json: features: no feature; expected at least one. A model without inputs has nothing to rank",
        ),
        (
            "table rows",
            ("/tables/0/rows", json!(4)),
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is F32 [3, 2]; expected F32 [4, 2], the table's rows \
             and dim. Correct rows and dim, or export the weights again",
        ),
        (
            "table tensor",
            ("/tables/0/tensor", json!("ad.wieght")),
            "DIR/manifest.json: tables[0].tensor: no tensor \"ad.wieght\"; expected the name of a tensor in a weights file. \
             Did you mean \"ad.weight\"?",
        ),
        (
            "table dtype",
            ("/tables/0/dtype", json!("int8")),
            "DIR/manifest.json: tables[0].dtype: \"int8\"; expected one of \"f32\", \"f16\", \"bf16\", \
             \"int8_rowwise\", \"int4_rowwise\", \"int2_rowwise\", \"int8_tbe\", \"int4_tbe\", \"int2_tbe\". Choose one of them",
        ),
        (
            "table of another format",
            ("/tables/0/dtype", json!("int4_tbe")),
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is F32 [3, 2]; expected U8, which holds a table of \
             dtype \"int4_tbe\". Set the table's dtype to what the tensor holds (f32), or export the weights again",
        ),
        (
            "huge table",
            ("/tables/0/rows", json!(4294967295_u64)),
            "DIR/manifest.json: tables[0].rows: 4294967295; expected an integer from 1 to 4294967294. Correct the value",
        ),
    ];
    check(cases, with_manifest);
}
