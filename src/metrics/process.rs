//! The process as the kernel sees it, under the names that every Prometheus client uses.

use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// `process_*`; what cannot be read is left out.
pub(super) fn families() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let mut push = |name: &str, help: &str, value: Option<f64>| families.extend(value.map(|value| family(name, help, value)));
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    push("process_cpu_seconds_total", "User and system CPU time.", cpu_seconds(&stat));
    push("process_resident_memory_bytes", "Resident memory.", status_bytes("VmRSS:"));
    push("process_virtual_memory_bytes", "Address space, reserved and used.", status_bytes("VmSize:"));
    push("process_open_fds", "Open file descriptors.", std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64));
    push("process_threads", "Threads.", field(&stat, 19));
    families
}

/// Field `n` (counted as in proc(5), from 0 behind the command, which may hold spaces).
fn field(stat: &str, n: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(n.checked_sub(2)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 13)? + field(stat, 14)?) / TICKS_PER_SECOND)
}

fn status_bytes(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn family(name: &str, help: &str, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    let kind = if name.ends_with("_total") {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        MetricType::COUNTER
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        MetricType::GAUGE
    };
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

/// `USER_HZ`: fixed at 100 in the ABI of the architectures we run on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let names: Vec<_> = families().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(status_bytes("VmRSS:").is_some_and(|bytes| bytes > 100_000.0));
        assert_eq!(field("7 (a b) c) S 1 2", 2), None, "the state is no number");
        assert_eq!(field("7 (a b) c) S 1 2", 3), Some(1.0));
    }
}
