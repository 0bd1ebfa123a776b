//! Settings as text: the reference page, and what is in force.

use super::settings::{Effective, settings};

/// `docs/configuration.md`: every setting with its default and reason.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    let mut section = "";
    for setting in settings() {
        let (name, key) = split(setting.key);
        if name != section {
            section = name;
            page.push_str(&format!("\n## `[{name}]`\n"));
        }
        page.push_str(&format!("\n### `{key}`\n\n{}\n\n", setting.what));
        page.push_str(&format!("Default `{}`", (setting.default)()));
        if let Some(range) = &setting.range {
            page.push_str(&format!(", from {} to {}", range.start(), range.end()));
        }
        page.push_str(&format!("; `{}`. {}\n", setting.variable(), setting.why));
    }
    page
}

/// The effective configuration as TOML, each line with where its value came from.
pub fn show(effective: &[Effective]) -> String {
    let mut text = String::new();
    let mut section = "";
    let width = effective.iter().map(|value| split(value.key).1.len() + 3 + value.value.len()).max().unwrap_or_default().min(60);
    for value in effective {
        let (name, key) = split(value.key);
        if name != section {
            section = name;
            text.push_str(&format!("\n[{name}]\n"));
        }
        let line = format!("{key} = {}", value.value);
        text.push_str(&format!("{line:width$}  # {}\n", value.origin));
    }
    text
}

/// (section, key) of a dotted key.
fn split(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or(("", key))
}

const HEAD: &str = "\
# Configuration

A setting comes from a flag, else from the environment, else from the file of `--config FILE` (or `GAVEL_CONFIG`), else it has its default.
The file is TOML. Unknown keys are errors, and all faults are reported at once before anything is opened. `gavel config show` prints what is
in force and where each value came from; `gavel config reference` prints this page.

Flags exist for what is changed by hand: `--models`, `--listen`, `--admin`, `--shards`, `--engine`, `--io`, `--pin`, `--spin-us`, `--log-format`,
`--log-level`. `--set KEY=VALUE` sets any setting: `--set limits.batch_rows=4096`.

```toml
models = \"/var/lib/gavel/models\"
listen = [\"0.0.0.0:7400\", \"unix:/run/gavel/gavel.sock\"]
admin = \"0.0.0.0:7401\"
engine = \"cpu\"
io = \"uring\"

[limits]
candidates_per_request = 2048

[timeouts]
drain_ms = 20_000
```

## General
";
