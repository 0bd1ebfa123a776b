//! Changes to the files of a good bundle (a copy of a committed one).

use std::fs;
use std::path::Path;

use crate::bundle_writer::copy_of;
use crate::{check, message};

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
