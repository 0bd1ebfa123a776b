use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn file(text: &str) -> Result<Loaded, Invalid> {
    load(Some((Path::new("gavel.toml"), text)), &[], &[])
}

fn flag(key: &str, value: &str) -> (String, String, Raw) {
    (key.into(), format!("--{key}"), Raw::Text(value.into()))
}

#[test]
fn defaults_are_valid() {
    let loaded = load(None, &[], &[]).expect("defaults fit together");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.effective.len(), settings().len());
    assert!(loaded.effective.iter().all(|value| value.origin == Origin::Default));
}

#[test]
fn flags_beat_environment_beats_file() {
    let text = "shards = 1\nspin_us = 1\nio = \"epoll\"\n[limits]\nframe_bytes = 8192\n";
    let environment = env(&[("GAVEL_SHARDS", "2"), ("GAVEL_SPIN_US", "2"), ("PATH", "/bin"), ("GAVEL_LISTEN", "127.0.0.1:1,unix:/a")]);
    let loaded = load(Some((Path::new("gavel.toml"), text)), &environment, &[flag("shards", "3")]).expect("valid");
    let general = &loaded.config.general;
    assert_eq!((general.shards, general.spin_us, general.io), (Shards::Count(3), 2, IoChoice::Epoll));
    assert_eq!(general.listen.len(), 2);
    assert_eq!(loaded.config.limits.frame_bytes, 8192);
    let origin = |key| loaded.effective.iter().find(|value| value.key == key).map(|value| value.origin.to_string()).unwrap_or_default();
    assert_eq!(origin("shards"), "flag --shards");
    assert_eq!(origin("spin_us"), "environment GAVEL_SPIN_US");
    assert_eq!(origin("limits.frame_bytes"), "gavel.toml:5");
    assert_eq!(origin("admin"), "default");
}

#[test]
fn all_faults_are_reported_at_once() {
    let text = "shards = 0\nlissten = \"x\"\n[limits]\nconnections = 5\nframe_bytes = \"1MB\"\nbatch_rows = 16\n[surprise]\na.b = 1\n";
    let Invalid(problems) = load(Some((Path::new("g.toml"), text)), &env(&[("GAVEL_IO", "kqueue")]), &[]).expect_err("faulty");
    let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            r#"environment GAVEL_IO: io: expected one of auto, uring, epoll, found "kqueue""#,
            r#"g.toml:1: shards: expected auto or a whole number from 1 to 1024, found "0""#,
            "g.toml:2: lissten: no such setting; did you mean listen?",
            "g.toml:4: limits.connections: no such setting",
            r#"g.toml:5: limits.frame_bytes: expected a whole number, found "1MB""#,
            "g.toml:6: limits.batch_rows: 16 is below limits.candidates_per_request = 4096: a request that is accepted must fit",
            "g.toml:8: surprise.a.b: no such setting",
        ]
    );
}

#[test]
fn faults_of_syntax_have_a_line() {
    let Invalid(problems) = file("shards = 1\nio = = 2\n").expect_err("no TOML");
    assert!(problems[0].to_string().starts_with("g.toml:2: ") || problems[0].to_string().starts_with("gavel.toml:2: "), "{}", problems[0]);
}

#[test]
fn settings_must_fit_together() {
    for (flags, expected) in [
        (vec![flag("listen", "127.0.0.1:7401")], "named twice"),
        (vec![flag("listen", "unix:/a,unix:/a")], "named twice"),
        (vec![flag("admin", "unix:/a")], "must be host:port"),
        (vec![flag("limits.connections_per_shard", "1000000"), flag("limits.frame_bytes", "67108864")], "address space"),
        (vec![flag("limits.in_flight_per_shard", "1")], "below limits.in_flight_per_connection"),
        (vec![flag("limits.models", "4096"), flag("limits.slots_per_model", "16")], "make 65536, over 65535"),
        (vec![flag("limits.models", "4095"), flag("limits.slots_per_model", "16")], ""),
        (vec![flag("timeouts.idle_ms", "10")], "below timeouts.hello_ms"),
        (vec![flag("limits.send_bytes", "155648"), flag("limits.candidates_per_request", "8192"), flag("limits.batch_rows", "8192")], ""),
        (
            vec![flag("limits.send_bytes", "65536"), flag("limits.candidates_per_request", "80000"), flag("limits.batch_rows", "80000")],
            "below the answer",
        ),
        (vec![flag("listen", "127.0.0.1:0,127.0.0.1:0")], ""),
        (vec![flag("timeouts.idle_ms", "0")], ""),
    ] {
        let message = load(None, &[], &flags).err().map_or(String::new(), |invalid| invalid.to_string());
        assert!(message.contains(expected) && message.is_empty() == expected.is_empty(), "{flags:?}: {message}");
    }
}

#[test]
fn foreign_variables_are_left_alone() {
    let kubernetes = env(&[
        ("GAVEL_SERVICE_HOST", "10.0.0.1"),
        ("GAVEL_SERVICE_PORT_RANK", "7400"),
        ("GAVEL_PORT", "tcp://10.0.0.1:7400"),
        ("GAVEL_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("GAVEL_CONFIG", "x.toml"),
    ]);
    assert_eq!(load(None, &kubernetes, &[]).expect("valid").warnings, Vec::<String>::new());
    let misspelt = load(None, &env(&[("GAVEL_SHARD", "2")]), &[]).expect("valid").warnings;
    assert_eq!(misspelt, ["environment GAVEL_SHARD: no such setting, ignored; did you mean GAVEL_SHARDS?"]);
}

#[test]
fn what_is_shown_reads_back_the_same() {
    let environment = env(&[("GAVEL_LISTEN", "127.0.0.1:9,unix:/tmp/a \"b\""), ("GAVEL_LOG_LEVEL", "debug"), ("GAVEL_SHARDS", "7")]);
    let loaded = load(None, &environment, &[]).expect("valid");
    let shown = show(&loaded.effective);
    assert_eq!(file(&shown).expect("valid TOML").config, loaded.config, "{shown}");
}

#[test]
fn the_reference_page_is_current() {
    let page = include_str!("../../docs/configuration.md");
    assert_eq!(page, reference(), "regenerate: cargo run -- config reference > docs/configuration.md");
}

#[test]
fn the_example_of_the_reference_page_is_valid() {
    let page = reference();
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    file(example).expect("valid");
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources { file: Some("/does/not/exist.toml".into()), ..Sources::default() };
    let message = sources.load().expect_err("no file").to_string();
    assert!(message.contains("/does/not/exist.toml"), "{message}");
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_panics(text in "[a-z_.=\\[\\]\"0-9 \n#{},-]{0,80}", value in ".{0,20}", key in "[a-z_.]{0,20}") {
            let environment: Vec<_> = settings().iter().map(|setting| (setting.variable(), value.clone())).collect();
            let _ = load(Some((Path::new("x"), &text)), &environment, &[flag(&key, &value)]);
        }
    }
}
