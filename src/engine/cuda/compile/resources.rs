//! What a kernel takes of a device, as the assembler (ptxas) reports it.

/// Of one kernel, or of one function that was not inlined.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Its name in the cubin.
    pub function: String,
    /// Registers of a thread. 0 for a function that was not inlined: its kernels count them.
    pub registers: u32,
    /// Bytes of a thread's stack.
    pub stack_bytes: u32,
    /// Bytes that a thread writes because registers ran out.
    pub spill_store_bytes: u32,
    /// Bytes that a thread reads because registers ran out.
    pub spill_load_bytes: u32,
    /// Shared memory of a block that was declared with its size, in bytes. What a launch asks for comes on top.
    pub shared_bytes: u32,
}

impl Resources {
    /// Whether registers ran out.
    pub fn spills(&self) -> bool {
        self.spill_store_bytes > 0 || self.spill_load_bytes > 0
    }

    /// What is wrong with a kernel whose values should all be in registers: too few of them, or a stack.
    pub fn fault(&self) -> Option<String> {
        let Resources { registers, stack_bytes, spill_store_bytes, spill_load_bytes, .. } = self;
        if self.spills() {
            return Some(format!(
                "runs out of its {registers} registers: {spill_store_bytes} bytes stored and {spill_load_bytes} loaded by each thread"
            ));
        }
        (*stack_bytes > 0).then(|| format!("keeps {stack_bytes} bytes of each thread on a stack"))
    }

    /// Reads the report of `--ptxas-options=-v`. A log without one gives an empty list; lines of other form are passed over.
    pub fn parse(log: &str) -> Vec<Resources> {
        let mut all: Vec<Resources> = Vec::new();
        for line in log.lines() {
            let line = line.trim_start_matches("ptxas").trim_start_matches([' ', '.', ':', '\t']);
            let line = line.strip_prefix("info").map_or(line, |rest| rest.trim_start_matches([' ', ':']));
            if let Some(name) = line.strip_prefix("Function properties for ") {
                all.push(Resources { function: name.trim().into(), ..Resources::default() });
            } else if let Some(current) = all.last_mut() {
                current.read(line);
            }
        }
        all
    }

    /// `0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads`, or `Used 10 registers, used 1 barriers, 1024 bytes smem`.
    fn read(&mut self, line: &str) {
        for part in line.split(',') {
            let part = part.trim();
            let part = part.strip_prefix("Used ").unwrap_or(part);
            let Some((number, what)) = part.split_once(' ').and_then(|(number, what)| Some((number.parse().ok()?, what))) else {
                continue;
            };
            match what {
                "registers" => self.registers = number,
                "bytes stack frame" => self.stack_bytes = number,
                "bytes spill stores" => self.spill_store_bytes = number,
                "bytes spill loads" => self.spill_load_bytes = number,
                "bytes smem" => self.shared_bytes = number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(function: &str, [registers, stack_bytes, spill_store_bytes, spill_load_bytes, shared_bytes]: [u32; 5]) -> Resources {
        Resources { function: function.into(), registers, stack_bytes, spill_store_bytes, spill_load_bytes, shared_bytes }
    }

    #[test]
    fn reads_what_the_assembler_says() {
        let nvrtc_12 = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'wide' for 'sm_90a'
ptxas info    : Function properties for wide
ptxas         .     256 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 256 bytes cumulative stack size
ptxas info    : Compile time = 19.657 ms
ptxas info    : Function properties for _Z1hPfi
ptxas         .     8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 2.492 ms
";
        let nvcc = "\
ptxas info    : Function properties for k
    0 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 376 bytes cmem[0]
";
        let wide = resources("wide", [32, 256, 12, 16, 0]);
        assert!(wide.spills());
        let fault = |resources: &Resources| resources.fault().unwrap_or_default();
        assert_eq!(fault(&wide), "runs out of its 32 registers: 12 bytes stored and 16 loaded by each thread");
        assert_eq!(fault(&resources("k", [10, 8, 0, 0, 0])), "keeps 8 bytes of each thread on a stack");
        assert_eq!(resources("k", [255, 0, 0, 0, 1024]).fault(), None);
        assert_eq!(Resources::parse(nvrtc_12), [wide, resources("_Z1hPfi", [0, 8, 0, 0, 0]), resources("k", [10, 0, 0, 0, 1024])]);
        assert_eq!(Resources::parse(nvcc), [resources("k", [255, 0, 4, 0, 0])]);
    }

    #[test]
    fn a_log_without_a_report_says_nothing() {
        for log in ["", "\n\n", "model.cu(3): warning #177-D: variable \"x\" was declared but never referenced\n", "Used 3 registers"] {
            assert_eq!(Resources::parse(log), []);
        }
    }
}
