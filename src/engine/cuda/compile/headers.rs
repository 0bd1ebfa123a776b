//! The families of `kernels/`, inside the executable: what a generated source may include by name.

/// A file of `kernels/`.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// As a source includes it: its path below `kernels/`.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

macro_rules! headers {
    ($($name:literal)*) => {
        &[$(Header { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $name)) }),*]
    };
}

/// All of them, by name.
pub fn headers() -> &'static [Header<'static>] {
    const HEADERS: &[Header<'_>] = headers! {
        "attention.cuh"
        "dot_interaction.cuh"
        "elementwise.cuh"
        "experts.cuh"
        "fm.cuh"
        "hopper.cuh"
        "job.cuh"
        "lines.cuh"
        "lookup_pool.cuh"
        "mlp.cuh"
        "mlp_bf16.cuh"
        "normalize.cuh"
        "operands.cuh"
        "picks.cuh"
        "products.cuh"
        "recurrent.cuh"
        "reduce.cuh"
        "rt.cuh"
        "tile.cuh"
        "trees.cuh"
        "wide.cuh"
        "wide_hopper.cuh"
        "window.cuh"
    };
    HEADERS
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_header_of_the_folder_is_in_the_executable() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let mut found = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(inside) = folders.pop() {
            for entry in fs::read_dir(&inside).expect("a folder").flatten() {
                let path = entry.path();
                let name = path.strip_prefix(&folder).expect("below kernels/").to_string_lossy().into_owned();
                // What stands in for the driver and the compiler is no kernel.
                if path.is_dir() && name != "emulator" {
                    folders.push(path);
                } else if name.ends_with(".cuh") {
                    found.push(name);
                }
            }
        }
        found.sort();
        let listed: Vec<&str> = headers().iter().map(|header| header.name).collect();
        assert_eq!(listed, found, "the list in {} against the folder kernels/", file!());
    }
}
