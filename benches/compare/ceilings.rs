//! What one core of this machine can do at most: multiply-adds out of registers, reading buffers of a size again and again, reading random rows
//! of a table. Buffers lie in huge pages where the kernel gives them. Rates are per second of the thread's CPU time, so that other work on the
//! machine does not count; a buffer that other work pushes out of a shared cache still shows.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use memmap2::{Advice, MmapMut};
use serde_json::{Value, json};

use super::clock::Moment;

/// The rates of multiply-adds, each measured for `time`: GFLOP/s of f32 by instruction set, and Gop/s of int8 dot products (VNNI).
pub fn peaks(time: Duration) -> Value {
    let mut peaks = serde_json::Map::new();
    for (name, work) in kernels::multiply_adds() {
        peaks.insert(name.into(), json!(rate(time, work)));
    }
    Value::Object(peaks)
}

/// Everything: medians and best of `rounds`, each of about `time`.
pub fn measure(time: Duration, rounds: usize, read_bytes: &[usize], gather: &[[usize; 2]]) -> io::Result<Value> {
    let mut multiply_adds = serde_json::Map::new();
    for (name, mut work) in kernels::multiply_adds() {
        multiply_adds.insert(name.into(), summary((0..rounds).map(|_| rate(time, &mut work)).collect()));
    }
    let largest = read_bytes.iter().copied().chain(gather.iter().map(|[table, _]| *table)).max().unwrap_or(0);
    let buffer = Buffer::new(largest)?;
    let read = |bytes: &usize| {
        let mut found = summary((0..rounds).map(|_| buffer.read_rate(*bytes, time)).collect());
        found["bytes"] = json!(bytes);
        found
    };
    let rows = |[table, row]: &[usize; 2]| {
        let floats = &buffer.floats()[..table / 4];
        let indices = indices(table / row);
        let work = || kernels::sum_rows(black_box(floats), row / 4, &indices) as u64;
        let mut found = summary((0..rounds).map(|_| 1e3 * rate(time, counted(work, indices.len() as u64))).collect());
        found["table_bytes"] = json!(table);
        found["row_bytes"] = json!(row);
        found
    };
    Ok(json!({
        "unit": {"multiply_adds": "Gop/s", "read": "GB/s", "gather": "million rows/s"},
        "multiply_adds": multiply_adds,
        "read": read_bytes.iter().map(read).collect::<Vec<_>>(),
        "gather": gather.iter().map(rows).collect::<Vec<_>>(),
    }))
}

/// Units of work per nanosecond of CPU time; `work` says how many units it did. Runs at least once.
fn rate(time: Duration, mut work: impl FnMut() -> u64) -> f64 {
    work();
    let (begun, mut done) = (Moment::now(), 0);
    loop {
        done += work();
        let spent = begun.elapsed();
        if u128::from(spent.cpu_ns) >= time.as_nanos() {
            return done as f64 / spent.cpu_ns.max(1) as f64;
        }
    }
}

/// Work that counts as `units`, whatever it returns.
fn counted(mut work: impl FnMut() -> u64, units: u64) -> impl FnMut() -> u64 {
    move || {
        black_box(work());
        units
    }
}

fn summary(mut rates: Vec<f64>) -> Value {
    rates.sort_by(f64::total_cmp);
    json!({"median": rates[rates.len() / 2], "best": rates[rates.len() - 1], "worst": rates[0]})
}

/// Row numbers below `rows`, at random: enough that a pass does not repeat itself within a cache.
fn indices(rows: usize) -> Vec<u32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (((state >> 32) * rows as u64) >> 32) as u32
    };
    (0..rows.clamp(1 << 10, 1 << 20)).map(|_| next()).collect()
}

/// Memory in huge pages, written once.
pub struct Buffer(MmapMut);

impl Buffer {
    /// Of so many bytes.
    pub fn new(bytes: usize) -> io::Result<Buffer> {
        let mut memory = MmapMut::map_anon(bytes.max(1))?;
        // Without huge pages the figures say so by being lower.
        let _ = memory.advise(Advice::HugePage);
        bytemuck::cast_slice_mut::<u8, f32>(&mut memory[..bytes / 4 * 4]).fill(1e-9);
        Ok(Buffer(memory))
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// GB/s of reading its first `bytes` bytes again and again for `time`.
    pub fn read_rate(&self, bytes: usize, time: Duration) -> f64 {
        let floats = &self.floats()[..bytes / 4];
        rate(time, counted(|| kernels::sum(black_box(floats)) as u64, bytes as u64))
    }

    fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0[..self.0.len() / 4 * 4])
    }
}

type Work = Box<dyn FnMut() -> u64>;

#[cfg(target_arch = "x86_64")]
mod kernels {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::Work;

    /// Turns of a loop of multiply-adds between two looks at the clock: some 20 µs.
    const TURNS: u64 = 2000;

    /// Name, and a loop that returns how many operations it did (a multiply-add is two).
    pub fn multiply_adds() -> Vec<(&'static str, Work)> {
        let mut found: Vec<(&'static str, Work)> = Vec::new();
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the instructions, checked above.
            found.push(("f32_avx512", Box::new(|| unsafe { f32_avx512() })));
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            found.push(("f32_avx2", Box::new(|| unsafe { f32_avx2() })));
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: as above.
            found.push(("int8_vnni", Box::new(|| unsafe { int8_vnni() })));
        }
        found
    }

    #[target_feature(enable = "avx512f")]
    fn f32_avx512() -> u64 {
        let mut sums = [_mm512_set1_ps(black_box(1.0)); 24];
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
        TURNS * 24 * 32
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_avx2() -> u64 {
        let mut sums = [_mm256_set1_ps(black_box(1.0)); 12];
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
        TURNS * 12 * 16
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_vnni() -> u64 {
        let mut sums = [_mm512_set1_epi32(black_box(0)); 24];
        let (x, y) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(5)));
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, y);
            }
        }
        black_box(sums);
        TURNS * 24 * 128
    }

    /// Reads everything once.
    pub fn sum(values: &[f32]) -> f32 {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the instructions, checked above.
            unsafe { sum_avx512(values) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            unsafe { sum_avx2(values) }
        } else {
            values.iter().sum()
        }
    }

    /// Adds up the rows named.
    pub fn sum_rows(table: &[f32], width: usize, rows: &[u32]) -> f32 {
        if is_x86_feature_detected!("avx512f") && width.is_multiple_of(16) {
            // SAFETY: the CPU has the instructions, checked above.
            unsafe { sum_rows_avx512(table, width, rows) }
        } else {
            rows.iter().map(|row| table[*row as usize * width..][..width].iter().sum::<f32>()).sum()
        }
    }

    #[target_feature(enable = "avx512f")]
    fn sum_avx512(values: &[f32]) -> f32 {
        let mut sums = [_mm512_setzero_ps(); 8];
        for chunk in values.chunks_exact(128) {
            for (sum, part) in sums.iter_mut().zip(chunk.chunks_exact(16)) {
                // SAFETY: the part has sixteen floats.
                *sum = _mm512_add_ps(*sum, unsafe { _mm512_loadu_ps(part.as_ptr()) });
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2")]
    fn sum_avx2(values: &[f32]) -> f32 {
        let mut sums = [_mm256_setzero_ps(); 8];
        for chunk in values.chunks_exact(64) {
            for (sum, part) in sums.iter_mut().zip(chunk.chunks_exact(8)) {
                // SAFETY: the part has eight floats.
                *sum = _mm256_add_ps(*sum, unsafe { _mm256_loadu_ps(part.as_ptr()) });
            }
        }
        let mut lanes = [0.0; 8];
        // SAFETY: eight floats have room.
        sums.into_iter()
            .for_each(|sum| unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(sum, _mm256_loadu_ps(lanes.as_ptr()))) });
        lanes.iter().sum()
    }

    #[target_feature(enable = "avx512f")]
    fn sum_rows_avx512(table: &[f32], width: usize, rows: &[u32]) -> f32 {
        let mut sums = [_mm512_setzero_ps(); 8];
        let row = |row: &u32| &table[*row as usize * width..][..width];
        if width == 16 {
            for rows in rows.chunks_exact(8) {
                for (sum, number) in sums.iter_mut().zip(rows) {
                    // SAFETY: the row has sixteen floats.
                    *sum = _mm512_add_ps(*sum, unsafe { _mm512_loadu_ps(row(number).as_ptr()) });
                }
            }
        } else {
            for number in rows {
                for chunk in row(number).chunks(128) {
                    for (sum, part) in sums.iter_mut().zip(chunk.chunks_exact(16)) {
                        // SAFETY: the part has sixteen floats.
                        *sum = _mm512_add_ps(*sum, unsafe { _mm512_loadu_ps(part.as_ptr()) });
                    }
                }
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod kernels {
    use super::Work;

    /// None that this bench knows: shares of the peak are left out.
    pub fn multiply_adds() -> Vec<(&'static str, Work)> {
        Vec::new()
    }

    /// Reads everything once.
    pub fn sum(values: &[f32]) -> f32 {
        values.chunks(64).map(|chunk| chunk.iter().sum::<f32>()).sum()
    }

    /// Adds up the rows named.
    pub fn sum_rows(table: &[f32], width: usize, rows: &[u32]) -> f32 {
        rows.iter().map(|row| table[*row as usize * width..][..width].iter().sum::<f32>()).sum()
    }
}
