//! Bundles that must be refused, each with its exact message: file, field, what was found, what was expected, what to do.

mod bundle_writer;

use std::fs;
use std::path::Path;

use bundle_writer::{Draft, copy_of, f32s, f64s, i64s, load_from, safetensors, u8s};
use gavel::model::{Bundle, Digest, LoadError, OPS};
use serde_json::{Value, json};

/// The message, with the bundle's folder as `DIR`, digests as `#` and the list of ops as `OPS`.
fn message(folder: &Path) -> String {
    let Err(error) = load_from(folder) else { return "loaded".into() };
    let text = error.to_string().replace(&folder.display().to_string(), "DIR").replace(&OPS.join(", "), "OPS");
    let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = text.split_inclusive([' ', ';']).collect();
    words
        .iter()
        .map(|word| if is_digest(&word.trim_end_matches([' ', ';'])) { word.replace(&word[..64], "#") } else { (*word).into() })
        .collect()
}

/// A bundle with a sparse and a dense feature, a table and a layer.
fn good() -> Draft {
    Draft {
        manifest: json!({
            "format": "gavel/1",
            "name": "small",
            "tables": [{"name": "ad", "tensor": "ad.weight", "rows": 3, "dim": 2}],
            "features": [
                {"name": "ctr", "kind": "dense", "scope": "candidate"},
                {"name": "ad", "kind": "sparse", "scope": "candidate", "table": "ad"},
            ],
            "graph": [
                {"op": "dense", "features": ["ctr"], "out": "ctr"},
                {"op": "lookup", "feature": "ad", "out": "ad"},
                {"op": "concat", "in": ["ad", "ctr"], "axis": 0, "out": "x"},
                {"op": "linear", "in": "x", "weight": "w", "bias": "b", "out": "logit"},
                {"op": "sigmoid", "in": "logit", "out": "prob"},
            ],
            "outputs": [{"name": "prob", "value": "prob", "kind": "probability"}],
        }),
        weights: vec![f32s("ad.weight", &[3, 2], &[0.5; 6]), f32s("w", &[1, 3], &[1.0; 3]), f32s("b", &[1], &[0.0])],
        selftest: vec![f32s("in.ctr", &[2], &[0.0, 1.0]), i64s("in.ad", &[2], &[0, 2]), f64s("out.prob", &[2], &[0.5, 0.5])],
    }
}

#[test]
fn the_unchanged_bundle_is_good() {
    let (_folder, model) = good().load();
    assert!(model.is_ok(), "{model:?}");
}

/// The example in `docs/bundle.md` is a bundle.
#[test]
fn the_documented_example_loads() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bundle.md")).expect("docs/bundle.md");
    let (_, rest) = page.split_once("```json\n").expect("the example");
    let (example, _) = rest.split_once("```").expect("its end");
    let mut draft = good();
    draft.manifest = serde_json::from_str(example).expect("JSON");
    // Digests are elided there; sizes and tolerance go with them.
    let object = draft.manifest.as_object_mut().expect("an object");
    assert!(object.remove("weights").is_some() && object.remove("selftest").is_some());
    let (_folder, model) = draft.load();
    assert_eq!(model.unwrap_or_else(|error| panic!("{error}")).name, "clicks");
}

fn check<T>(cases: Vec<(&str, T, &str)>, refused: impl Fn(T) -> String) {
    let mut wrong = String::new();
    for (name, case, expected) in cases {
        let found = refused(case);
        if found != expected {
            wrong += &format!("{name}\n  found    {found}\n  expected {expected}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Changes to the files of a good bundle (a copy of a committed one).
#[test]
fn damaged_files() {
    type Damage = fn(&Path);
    fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file).expect("a file");
        change(&mut bytes);
        fs::write(file, bytes).expect("written");
    }
    let cases: Vec<(&str, Damage, &str)> = vec![
        (
            "missing manifest",
            |dir| fs::remove_file(dir.join("manifest.json")).expect("removed"),
            "DIR/manifest.json: cannot be read: No such file or directory (os error 2). Check the path, and that the whole \
             bundle was copied",
        ),
        (
            "missing weights",
            |dir| fs::remove_file(dir.join("weights.safetensors")).expect("removed"),
            "DIR/weights.safetensors: cannot be read: No such file or directory (os error 2). Check the path, and that the \
             whole bundle was copied",
        ),
        (
            "missing selftest",
            |dir| fs::remove_file(dir.join("selftest.safetensors")).expect("removed"),
            "DIR/selftest.safetensors: cannot be read: No such file or directory (os error 2). Check the path, and that the \
             whole bundle was copied",
        ),
        (
            "truncated weights",
            |dir| edit(&dir.join("weights.safetensors"), |bytes| bytes.truncate(2000)),
            "DIR/weights.safetensors: 2000 bytes; expected 2232 (weights[0].bytes in DIR/manifest.json). It is truncated: \
             copy the bundle again, or export it again",
        ),
        (
            "longer weights",
            |dir| edit(&dir.join("weights.safetensors"), |bytes| bytes.push(0)),
            "DIR/weights.safetensors: 2233 bytes; expected 2232 (weights[0].bytes in DIR/manifest.json). It is not the file \
             that the manifest was written for: copy the bundle again, or export it again",
        ),
        (
            "flipped bit",
            |dir| edit(&dir.join("weights.safetensors"), |bytes| bytes[2200] ^= 1),
            "DIR/weights.safetensors: SHA-256 #; expected # (weights[0].sha256 in DIR/manifest.json). The file is damaged or \
             was replaced: copy the bundle again, or export it again",
        ),
        (
            "flipped bit in the header",
            |dir| edit(&dir.join("weights.safetensors"), |bytes| bytes[8] = b'['),
            "DIR/weights.safetensors: SHA-256 #; expected # (weights[0].sha256 in DIR/manifest.json). The file is damaged or \
             was replaced: copy the bundle again, or export it again",
        ),
        (
            "flipped bit in the selftest",
            |dir| edit(&dir.join("selftest.safetensors"), |bytes| bytes[2900] ^= 1),
            "DIR/selftest.safetensors: SHA-256 #; expected # (selftest.sha256 in DIR/manifest.json). The file is damaged or \
             was replaced: copy the bundle again, or export it again",
        ),
        (
            "empty manifest",
            |dir| fs::write(dir.join("manifest.json"), "").expect("written"),
            "DIR/manifest.json: not valid JSON: EOF while parsing a value at line 1 column 0; expected one JSON object. \
             Correct the file, or export it again",
        ),
        (
            "weights are a folder",
            |dir| {
                fs::remove_file(dir.join("weights.safetensors")).expect("removed");
                fs::create_dir(dir.join("weights.safetensors")).expect("a folder");
            },
            "DIR/weights.safetensors: cannot be read: not a regular file. Check the disk, then copy the bundle again",
        ),
    ];
    check(cases, |damage| {
        let folder = copy_of("wire_vectors");
        damage(folder.path());
        message(folder.path())
    });
}

/// A part of the manifest exchanged: JSON pointer, new value (null removes).
#[test]
fn wrong_manifests() {
    let cases: Vec<(&str, (&str, Value), &str)> = vec![
        (
            "version from the future",
            ("/format", json!("gavel/2")),
            "DIR/manifest.json: format: the format \"gavel/2\"; expected \"gavel/1\". The bundle was made for a newer gavel: \
             upgrade this server, or export the bundle again in an older format",
        ),
        (
            "another format",
            ("/format", json!("onnx")),
            "DIR/manifest.json: format: the format \"onnx\"; expected \"gavel/1\". This is not a bundle that gavel wrote: \
             docs/bundle.md is the specification",
        ),
        ("no format", ("/format", json!(null)), "DIR/manifest.json: no key \"format\"; expected one. docs/bundle.md lists the keys"),
        (
            "unknown key",
            ("/fetures", json!([])),
            "DIR/manifest.json: unknown key \"fetures\"; expected only format, name, description, weights, tables, features, \
             graph, outputs, selftest. Did you mean \"features\"?",
        ),
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
        (
            "unknown op",
            ("/graph/4/op", json!("sigmod")),
            "DIR/manifest.json: graph[4].op: unknown op \"sigmod\"; expected one of OPS. Did you mean \"sigmoid\"?",
        ),
        (
            "op of the future",
            ("/graph/4/op", json!("attention")),
            "DIR/manifest.json: graph[4].op: unknown op \"attention\"; expected one of OPS. Express it with these ops, or \
             upgrade the server",
        ),
        (
            "argument of no op",
            ("/graph/4/axis", json!(0)),
            "DIR/manifest.json: graph[4]: unknown key \"axis\"; expected only op, out, in. Remove the key",
        ),
        (
            "unknown feature",
            ("/graph/1/feature", json!("add")),
            "DIR/manifest.json: graph[1].feature: no feature \"add\"; expected the name of an entry of features. Did you mean \
             \"ad\"?",
        ),
        (
            "dense of a sparse feature",
            ("/graph/0/features", json!(["ad"])),
            "DIR/manifest.json: graph[0].features[0]: feature \"ad\" is sparse; expected a dense feature. Ops by kind: dense \
             reads dense features, lookup and length sparse ones, integer integer ones",
        ),
        (
            "unknown value",
            ("/graph/4/in", json!("logits")),
            "DIR/manifest.json: graph[4].in: no value \"logits\"; expected the \"out\" of an earlier entry. Did you mean \
             \"logit\"?",
        ),
        (
            "value used before it is made",
            ("/graph/2/in/0", json!("logit")),
            "DIR/manifest.json: graph[2].in[0]: value \"logit\" is made by graph[3], which is not before this entry; expected \
             a value made by an earlier entry. Put the entries in the order of execution; a value cannot depend on itself",
        ),
        (
            "value of itself",
            ("/graph/4/in", json!("prob")),
            "DIR/manifest.json: graph[4].in: value \"prob\" is made by graph[4], which is not before this entry; expected a \
             value made by an earlier entry. Put the entries in the order of execution; a value cannot depend on itself",
        ),
        (
            "second value",
            ("/graph/4/out", json!("logit")),
            "DIR/manifest.json: graph[4]: a second value \"logit\"; graph[3] makes one; expected a new name in \"out\". Each \
             value is made once: choose another name",
        ),
        (
            "unknown tensor",
            ("/graph/3/weight", json!("v")),
            "DIR/manifest.json: graph[3].weight: no tensor \"v\"; expected the name of a tensor in a weights file. Check the \
             spelling",
        ),
        (
            "shape of a layer",
            ("/graph/3/weight", json!("ad.weight")),
            "DIR/manifest.json: graph[3].weight: tensor \"ad.weight\" has shape [3, 2]; expected [.., 3], since the input \
             \"x\" has shape [3]. Check the layer that it belongs to, and that it is not transposed",
        ),
        (
            "shape of a bias",
            ("/graph/3/bias", json!("w")),
            "DIR/manifest.json: graph[3].bias: tensor \"w\" has shape [1, 3]; expected [1]. Check the layer that it belongs \
             to",
        ),
        (
            "axis",
            ("/graph/2/axis", json!(1)),
            "DIR/manifest.json: graph[2].axis: axis 1; expected an axis of shape [2]. Shapes are per row, without the batch",
        ),
        (
            "pool",
            ("/graph/1/pool", json!("avg")),
            "DIR/manifest.json: graph[1].pool: \"avg\"; expected one of \"sum\", \"mean\", \"max\", \"none\". Choose one of \
             them",
        ),
        (
            "output of several elements",
            ("/outputs/0/value", json!("x")),
            "DIR/manifest.json: outputs[0].value: value of shape [3]; expected [] or [1]. Slice or reduce it: an output is \
             one score per candidate",
        ),
        (
            "unknown output value",
            ("/outputs/0/value", json!("probe")),
            "DIR/manifest.json: outputs[0].value: no value \"probe\"; expected the \"out\" of an earlier entry. Did you mean \
             \"prob\"?",
        ),
        (
            "output kind",
            ("/outputs/0/kind", json!("score")),
            "DIR/manifest.json: outputs[0].kind: \"score\"; expected one of \"probability\", \"logit\", \"value\". Choose one \
             of them",
        ),
        ("no outputs", ("/outputs", json!([])), "DIR/manifest.json: outputs: no output; expected at least one. Name the value that ranks"),
        (
            "path of weights",
            ("/weights/0/file", json!("../weights.safetensors")),
            "DIR/manifest.json: weights[0].file: \"../weights.safetensors\"; expected the plain name of a .safetensors file \
             in the bundle's folder. Put the file beside manifest.json",
        ),
        (
            "digest",
            ("/weights/0/sha256", json!("abc")),
            "DIR/manifest.json: weights[0].sha256: \"abc\"; expected 64 hexadecimal digits. Correct the value",
        ),
        (
            "wrong digest",
            ("/weights/0/sha256", json!("0".repeat(64))),
            "DIR/weights.safetensors: SHA-256 #; expected # (weights[0].sha256 in DIR/manifest.json). The file is damaged or \
             was replaced: copy the bundle again, or export it again",
        ),
        (
            "wrong size",
            ("/weights/0/bytes", json!(17)),
            "DIR/weights.safetensors: 225 bytes; expected 17 (weights[0].bytes in DIR/manifest.json). It is not the file that \
             the manifest was written for: copy the bundle again, or export it again",
        ),
        (
            "origin of the rows",
            ("/selftest/rows", json!("madeup")),
            "DIR/manifest.json: selftest.rows: \"madeup\"; expected one of \"given\", \"mixed\", \"made_up\". Did you mean \"made_up\"?",
        ),
        ("tolerance", ("/selftest/atol", json!(-1)), "DIR/manifest.json: selftest.atol: -1; expected a number from 0. Correct the value"),
        (
            "model name",
            ("/name", json!("../../etc")),
            "DIR/manifest.json: name: the name \"../../etc\"; expected 1 to 64 ASCII letters, digits and _-., not starting \
             with a dot. Choose another name",
        ),
    ];
    check(cases, |(pointer, value)| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        good().write(folder.path());
        let file = folder.path().join("manifest.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&file).expect("a manifest")).expect("JSON");
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        match manifest.pointer_mut(parent).expect("the parent") {
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
            Value::Object(object) if value.is_null() => drop(object.remove(key)),
            Value::Object(object) => drop(object.insert(key.into(), value)),
            _ => panic!("{pointer}"),
        }
        fs::write(&file, manifest.to_string()).expect("written");
        message(folder.path())
    });
}

/// Weights and selftests that do not fit the manifest, with right sizes and digests.
#[test]
fn wrong_tensors() {
    type Change = fn(&mut Draft);
    let cases: Vec<(&str, Change, &str)> = vec![
        (
            "NaN weight",
            |draft| draft.weights[1] = f32s("w", &[1, 3], &[1.0, f32::NAN, 1.0]),
            "DIR/weights.safetensors: tensor \"w\": element 1 (of [1, 3]) is NaN; expected finite weights. Training diverged \
             or the export is broken: export a good checkpoint",
        ),
        (
            "infinite row",
            |draft| draft.weights[0] = f32s("ad.weight", &[3, 2], &[0.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0]),
            "DIR/weights.safetensors: tensor \"ad.weight\": element 1 of row 1 is inf; expected finite weights. Training \
             diverged or the export is broken: export a good checkpoint",
        ),
        (
            "table shape",
            |draft| draft.weights[0] = f32s("ad.weight", &[2, 3], &[0.0; 6]),
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is F32 [2, 3]; expected F32 [3, 2], the table's rows \
             and dim. Correct rows and dim, or export the weights again",
        ),
        (
            "table of doubles",
            |draft| draft.weights[0] = f64s("ad.weight", &[3, 2], &[0.0; 6]),
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is F64 [3, 2]; expected F32, which holds a table \
             of dtype \"f32\". Export the weights again",
        ),
        (
            "coded rows that are short",
            |draft| {
                draft.manifest["tables"][0]["dtype"] = json!("int8_rowwise");
                draft.weights[0] = u8s("ad.weight", &[3, 9], &[0; 27]);
            },
            "DIR/manifest.json: tables[0].tensor: tensor \"ad.weight\" is U8 [3, 9]; expected U8 [3, 10 or more]: the table's \
             rows, and the bytes of 2 codes with scale and bias. Correct rows and dim, or export the weights again",
        ),
        (
            "coded rows without a scale",
            |draft| {
                draft.manifest["tables"][0]["dtype"] = json!("int2_tbe");
                draft.weights[0] = u8s("ad.weight", &[3, 5], &[0, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0, 0x7c, 0, 0, 9]);
            },
            "DIR/weights.safetensors: tensor \"ad.weight\": the scale of row 2 is inf; expected finite weights. Training \
             diverged or the export is broken: export a good checkpoint",
        ),
        (
            "layer beyond f32",
            |draft| draft.weights[1] = f64s("w", &[1, 3], &[0.0, 1e39, 0.0]),
            "DIR/weights.safetensors: tensor \"w\": element 1 (of [1, 3]) is inf as f32; expected finite weights. Training \
             diverged or the export is broken: export a good checkpoint",
        ),
        (
            "layer shape",
            |draft| draft.weights[1] = f32s("w", &[3, 1], &[0.0; 3]),
            "DIR/manifest.json: graph[3].weight: tensor \"w\" has shape [3, 1]; expected [.., 3], since the input \"x\" has \
             shape [3]. Check the layer that it belongs to, and that it is not transposed",
        ),
        (
            "layer of bytes",
            |draft| draft.weights[1] = u8s("w", &[1, 3], &[0; 3]),
            "DIR/manifest.json: graph[3].weight: tensor \"w\" is U8; expected F32, F16, BF16 or F64. Convert the tensor \
             before saving it",
        ),
        (
            "integer layer",
            |draft| draft.weights[1] = i64s("w", &[1, 3], &[0; 3]),
            "DIR/manifest.json: graph[3].weight: tensor \"w\" is I64; expected F32, F16, BF16 or F64. Convert the tensor \
             before saving it",
        ),
        (
            "missing tensor",
            |draft| drop(draft.weights.pop()),
            "DIR/manifest.json: graph[3].bias: no tensor \"b\"; expected the name of a tensor in a weights file. Check the \
             spelling",
        ),
        (
            "selftest without an input",
            |draft| drop(draft.selftest.remove(0)),
            "DIR/selftest.safetensors: no tensor \"in.ctr\"; expected F32 [rows, 1]. Every feature of the model needs its \
             values",
        ),
        (
            "selftest without an output",
            |draft| drop(draft.selftest.pop()),
            "DIR/selftest.safetensors: no tensor \"out.prob\"; expected F64 [2]. The selftest says what each output should be",
        ),
        (
            "selftest with an unknown tensor",
            |draft| draft.selftest.push(f32s("in.price", &[2], &[0.0; 2])),
            "DIR/selftest.safetensors: tensor \"in.price\": neither an input nor an output of the model; expected in.FEATURE, \
             in.FEATURE.lengths, in.FEATURE.weights, out.OUTPUT or label.OUTPUT. Check its name",
        ),
        (
            "selftest label",
            |draft| draft.selftest.push(f64s("label.prob", &[2], &[0.0, 0.5])),
            "DIR/selftest.safetensors: tensor \"label.prob\": element 1 is 0.5; expected 0 or 1. Leave labels of other kinds out",
        ),
        (
            "selftest label rows",
            |draft| draft.selftest.push(f64s("label.prob", &[3], &[0.0; 3])),
            "DIR/selftest.safetensors: tensor \"label.prob\": shape [3]; expected [2], the rows of the inputs. Export the \
             bundle again",
        ),
        (
            "selftest rows",
            |draft| draft.selftest[2] = f64s("out.prob", &[3], &[0.5; 3]),
            "DIR/selftest.safetensors: tensor \"out.prob\": shape [3]; expected [2], the rows of the inputs. Export the \
             bundle again",
        ),
        (
            "selftest input rows",
            |draft| draft.selftest[0] = f32s("in.ctr", &[3], &[0.5; 3]),
            "DIR/selftest.safetensors: tensor \"in.ad\": 2 rows; expected 3, as tensor \"in.ctr\". Every tensor holds the \
             same rows",
        ),
        (
            "selftest output NaN",
            |draft| draft.selftest[2] = f64s("out.prob", &[2], &[0.5, f64::NAN]),
            "DIR/selftest.safetensors: tensor \"out.prob\": element 1 is NaN; expected a finite number. Export the bundle \
             again",
        ),
        (
            "selftest id",
            |draft| draft.selftest[1] = i64s("in.ad", &[2], &[0, 1 << 32]),
            "DIR/selftest.safetensors: tensor \"in.ad\", row 1: the id 4294967296, expected 0 to 4294967294, or -1 for \
             missing; expected values that the feature can carry. Correct the inputs",
        ),
        (
            "selftest without rows",
            |draft| {
                draft.selftest = vec![f32s("in.ctr", &[0], &[]), i64s("in.ad", &[0], &[]), f64s("out.prob", &[0], &[])];
            },
            "DIR/selftest.safetensors: 0 rows; expected 1 to 65536. Export the bundle again",
        ),
        (
            "negative variance",
            |draft| {
                draft.weights.push(f32s("var", &[1], &[-1.0]));
                draft.manifest["graph"][4] = json!({"op": "batch_norm", "in": "logit", "mean": "b", "var": "var", "out": "prob"});
            },
            "DIR/manifest.json: graph[4].var: element 0 of tensor \"var\" is -1; expected elements above -0.00001 (var + eps \
             > 0). A variance cannot be negative: export a good checkpoint",
        ),
        (
            "integer arithmetic",
            |draft| {
                draft.weights.push(i64s("n", &[1], &[1]));
                draft.manifest["graph"] = json!([{"op": "const", "tensor": "n", "out": "n"}, {"op": "relu", "in": "n", "out": "prob"}]);
            },
            "DIR/manifest.json: graph[1].in: value \"n\" is i64; expected an f32 value. Put {\"op\": \"cast\", \"to\": \
             \"f32\"} before it",
        ),
        (
            "shapes that do not broadcast",
            |draft| draft.manifest["graph"][3] = json!({"op": "add", "a": "x", "b": "ad", "out": "logit"}),
            "DIR/manifest.json: graph[3]: shapes [3] and [2]; expected shapes that broadcast: from the last axis on, equal \
             sizes or 1. Reshape one of the two",
        ),
        (
            "too many elements",
            |draft| {
                draft.manifest["graph"][3] = json!({"op": "fill", "value": 0, "shape": [1048576, 1048576], "out": "logit"});
            },
            "DIR/manifest.json: graph[3]: value \"logit\" of shape [1048576, 1048576]; expected 1 to 1048576 elements per \
             row. Shapes are per row, without the batch",
        ),
        (
            "reshape",
            |draft| draft.manifest["graph"][3] = json!({"op": "reshape", "in": "x", "shape": [2, -1], "out": "logit"}),
            "DIR/manifest.json: graph[3].shape: [2, -1]; expected the 3 elements of [3]. Shapes are per row, without the \
             batch; one size may be -1",
        ),
        (
            "empty slice",
            |draft| draft.manifest["graph"][3] = json!({"op": "slice", "in": "x", "axis": 0, "start": 3, "out": "logit"}),
            "DIR/manifest.json: graph[3]: value \"logit\" of shape [0]; expected 1 to 1048576 elements per row. Shapes are \
             per row, without the batch",
        ),
    ];
    check(cases, |change| {
        let mut draft = good();
        change(&mut draft);
        let (folder, _) = draft.load();
        message(folder.path())
    });
}

#[test]
fn a_tensor_in_two_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut draft = good();
    let second = safetensors(&[f32s("b", &[1], &[0.0])]);
    let first = safetensors(&draft.weights);
    let entry = |file: &str, bytes: &[u8]| json!({"file": file, "bytes": bytes.len(), "sha256": Digest::of(bytes).to_string()});
    draft.manifest["weights"] = json!([entry("weights.safetensors", &first), entry("weights-2.safetensors", &second)]);
    draft.write(folder.path());
    fs::write(folder.path().join("weights-2.safetensors"), second).expect("written");
    assert_eq!(
        message(folder.path()),
        "DIR/weights-2.safetensors: tensor \"b\": a second tensor of that name; the first is in weights.safetensors; expected each name in one file. Rename one of the two"
    );
}

/// What a caller can tell apart without reading messages.
#[test]
fn errors_have_kinds() {
    let folder = copy_of("wire_vectors");
    assert_eq!(Bundle::open(folder.path()).expect("opens").manifest.name, "wire_vectors");
    assert!(matches!(load_from(&folder.path().join("nowhere")), Err(LoadError::Io { .. })));
    fs::write(folder.path().join("selftest.safetensors"), "").expect("written");
    assert!(matches!(load_from(folder.path()), Err(LoadError::Integrity(_))));
    fs::write(folder.path().join("manifest.json"), "{}").expect("written");
    assert!(matches!(load_from(folder.path()), Err(LoadError::Format(_))));
    fs::write(folder.path().join("manifest.json"), r#"{"format": "gavel/1"}"#).expect("written");
    assert!(matches!(load_from(folder.path()), Err(LoadError::Manifest(_))));
}
