//! `import`: the lines that it stores, skips and rejects.

use std::io::Write;
use std::process::Stdio;

use crate::support::command::{TestDir, run};
use crate::support::engine::{event, events};
use crate::support::fixture;

fn gzipped(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn importing_a_file_again_stores_nothing() {
    let test_dir = TestDir::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let output = test_dir.run(&["import", &path]).assert_exit_code(0);
    assert_eq!(output.stderr, "248 stored, 0 skipped, 0 rejected\n");
    let output = test_dir.run(&["import", &path]).assert_exit_code(0);
    assert_eq!(output.stderr, "0 stored, 248 skipped, 0 rejected\n");
    assert_eq!(test_dir.lines(&["query", "--count", "--source", "imported"]), ["248"]);
    // The same events under another source are other events.
    test_dir.run(&["import", &path, "--source", "copy", "-q"]).assert_success();
    assert_eq!(test_dir.lines(&["query", "--count"]), ["496"]);
    let status = &test_dir.json(&["status", "--json"])[0]["sources"][1];
    assert_eq!(
        (status["engine_id"].as_str(), status["host"].as_str(), status["connected"].as_bool()),
        (None, None, Some(false))
    );
}

#[test]
fn import_reads_stdin_and_rejects_lines_that_are_not_events() {
    let test_dir = TestDir::new();
    let mut command = test_dir.command(&["import", "--strict", "-"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = format!("{}\n\nnonsense\n\x1e{}\n{}", event(1), event(0), event(2));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "3 stored, 0 skipped, 1 rejected (`events rejected` shows them)\nevents: 1 line is not an event (hint: run `events rejected` to see them)\n"
    );
    assert_eq!(test_dir.lines(&["query"]), events(0..3));
    assert_eq!(test_dir.json(&["rejected"])[0]["error"], "standard input:3: not JSON: expected a value at byte 0");
}

#[test]
fn compression_is_detected_and_a_bad_line_is_stored_once_with_its_position() {
    let test_dir = TestDir::new();
    let lines = format!("{}\n{}\nnonsense\n{}\n", event(0), event(1), event(2));
    let compressed = [gzipped(&lines), zstd::encode_all(lines.as_bytes(), 1).unwrap(), lines.into_bytes()];
    for (round, bytes) in compressed.iter().enumerate() {
        let path = test_dir.path("day");
        std::fs::write(&path, bytes).unwrap();
        let mut from_stdin = test_dir.command(&["import"]);
        from_stdin.stdin(std::fs::File::open(&path).unwrap());
        for (source, output) in [run(from_stdin), test_dir.run(&["import", "day"])].into_iter().enumerate() {
            let log = output.assert_exit_code(0).stderr;
            let expected = match (round, source) {
                (0, 0) => "3 stored, 0 skipped, 1 rejected (`events rejected` shows them)\n",
                (0, 1) => "0 stored, 3 skipped, 1 rejected (`events rejected` shows them)\n",
                _ => "0 stored, 4 skipped, 0 rejected\n",
            };
            assert_eq!(log, expected, "{round} {source}");
        }
    }
    // --strict also fails on a bad line that is stored already.
    test_dir
        .run(&["import", "-q", "--strict", "day"])
        .assert_failure(1, "1 line is not an event (hint: run `events rejected` to see them)");
    let status = String::from_utf8(test_dir.run(&["status"]).assert_success().stdout).unwrap();
    assert!(status.contains("● imported\n"), "{status}");
    assert_eq!(test_dir.lines(&["query"]), events(0..3));
    let errors: Vec<_> = test_dir.json(&["rejected"]).iter().map(|line| line["error"].clone()).collect();
    let reason = "not JSON: expected a value at byte 0";
    assert_eq!(errors, [format!("standard input:3: {reason}"), format!("day:3: {reason}")]);
}

#[test]
fn days_imported_in_any_order_are_printed_in_order() {
    let test_dir = TestDir::new();
    // Three days, the later ones imported first, and a fourth that overlaps two of them.
    let days: [Vec<u64>; 4] = [
        (60_000..63_000).collect(),
        (30_000..34_000).collect(),
        (0..9_000).collect(),
        (30_500..62_000).step_by(7).collect(),
    ];
    let mut expected: Vec<u64> = Vec::new();
    for (at, day) in days.iter().enumerate() {
        let path = test_dir.path(&format!("day{at}.ndjson"));
        std::fs::write(&path, events(day.iter().copied()).join("\n")).unwrap();
        test_dir.run(&["import", "-q", path.to_str().unwrap()]).assert_success();
        expected.extend(day);
    }
    expected.sort_unstable();
    expected.dedup();
    let expected = events(expected);
    assert!(test_dir.lines(&["query"]) == expected);
    let mut reversed = test_dir.lines(&["query", "--reverse"]);
    reversed.reverse();
    assert!(reversed == expected);
    assert_eq!(test_dir.lines(&["query", "--last", "3"]), expected[expected.len() - 3..]);
    let some: Vec<String> = expected.iter().filter(|line| line.contains("\"name\":\"box-77")).cloned().collect();
    assert!(some.len() > 100);
    assert_eq!(test_dir.lines(&["query", "--container", "box-77"]), some);
    let starts: Vec<String> = expected.iter().filter(|line| line.contains("\"Action\":\"start\"")).cloned().collect();
    assert!(test_dir.lines(&["query", "--action", "start"]) == starts);
    // A window from second 31,000 to second 60,500.
    let window = ["query", "--since", "1790031000", "--until", "1790060500"];
    let within = 1_790_031_000_000_000_000..=1_790_060_500_000_000_000;
    let is_within = |line: &&String| within.contains(&fixture::line_time_nano(line));
    let within: Vec<String> = expected.iter().filter(is_within).cloned().collect();
    assert!(within.len() > 4_000);
    assert!(test_dir.lines(&window) == within);
}

#[test]
fn a_killed_import_run_again_gives_the_same_store() {
    let lines = events(0..30_000);
    let text = format!("{}\nnonsense\n{}\n", lines[..5_000].join("\n"), lines[5_000..].join("\n"));
    let inputs = [
        ("many.ndjson", text.clone().into_bytes()),
        ("many.gz", gzipped(&text)),
        ("many.zst", zstd::encode_all(text.as_bytes(), 1).unwrap()),
        ("many.json-seq", lines.iter().map(|line| format!("\x1e{line}\n")).collect::<String>().into_bytes()),
    ];
    for (name, bytes) in inputs {
        let test_dir = TestDir::new();
        std::fs::write(test_dir.path(name), bytes).unwrap();
        for round in 1..=4 {
            let import = test_dir.start(&["import", name]);
            test_dir.eventually("some events are stored", || {
                let output = test_dir.run(&["query", "--count", "-q"]);
                let count: usize = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0);
                if count >= round * 2_000 { Ok(()) } else { Err(count) }
            });
            if round % 2 == 0 { import.signal("INT") } else { import.kill() }
        }
        test_dir.run(&["import", "-q", name]).assert_success();
        assert!(test_dir.lines(&["query"]) == lines, "{name}");
        let rejected = test_dir.json(&["rejected"]);
        let errors: Vec<&str> = rejected.iter().map(|line| line["error"].as_str().unwrap()).collect();
        assert_eq!(errors.len(), usize::from(name != "many.json-seq"), "{name}");
        assert!(errors.iter().all(|error| error.starts_with(&format!("{name}:5001: "))), "{name}: {errors:?}");
        test_dir.verify(&[]);
    }
}

#[test]
fn an_unreadable_file_is_named_and_no_store_is_created() {
    let test_dir = TestDir::new();
    let missing = test_dir.run(&["import", "missing.ndjson"]);
    missing.assert_failure(1, "cannot read missing.ndjson: No such file or directory");
    let line = format!("cannot read {}: it is a directory (hint: pass the files in it)", test_dir.path("").display());
    test_dir.run(&["import", test_dir.path("").to_str().unwrap()]).assert_failure(1, &line);
    assert!(!crate::support::command::exists(&test_dir.db()));
}

#[test]
fn the_events_view_has_the_fields_of_each_event() {
    let test_dir = TestDir::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    test_dir.run(&["import", "-q", &path]).assert_success();
    let db = rusqlite::Connection::open(test_dir.db()).unwrap();
    let mut statement = db
        .prepare("SELECT source, time, type, action, actor_id, name, image, attributes FROM events ORDER BY seq")
        .unwrap();
    let rows: Vec<[Option<String>; 8]> = statement
        .query_map([], |row| Ok(std::array::from_fn(|at| row.get(at).unwrap())))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let lines = fixture::lines("docker-28.5.2.ndjson");
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let attributes = &event["Actor"]["Attributes"];
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let time = events::query::time::rfc3339(event["timeNano"].as_i64().unwrap());
        let expected = [
            Some("imported".to_owned()),
            Some(time),
            text(&event["Type"]),
            text(&event["Action"]),
            text(&event["Actor"]["ID"]),
            text(&attributes["name"]),
            text(&attributes["image"]),
        ];
        assert_eq!(row[..7], expected, "{line}");
        let shown: serde_json::Value = serde_json::from_str(row[7].as_deref().unwrap()).unwrap();
        assert_eq!(shown, *attributes, "{line}");
    }
}

#[test]
fn import_accepts_the_output_of_query() {
    let test_dir = TestDir::new();
    test_dir.run(&["import", "-q", fixture::path("docker-29.7.2.ndjson").to_str().unwrap()]).assert_success();
    let printed = test_dir.lines(&["query"]);
    let again = TestDir::new();
    let mut command = again.command(&["import", "-q"]);
    let path = again.path("printed");
    std::fs::write(&path, printed.join("\n")).unwrap();
    command.stdin(std::fs::File::open(&path).unwrap());
    run(command).assert_success();
    assert_eq!(again.lines(&["query"]), printed);
}

#[test]
fn a_progress_bar_is_shown_only_on_a_terminal() {
    let test_dir = TestDir::new();
    std::fs::write(test_dir.path("many.ndjson"), events(0..30_000).join("\n")).unwrap();
    let program = env!("CARGO_BIN_EXE_events");
    let on_terminal = |args: &str| {
        let mut command = test_dir.command(&[]);
        command = {
            let mut script = std::process::Command::new("script");
            script.args(["-qec", &format!("stty cols 120; {program} {args}"), "/dev/null"]);
            script.env("EVENTS_DB", test_dir.db()).current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
            script
        };
        String::from_utf8(run(command).assert_exit_code(0).stdout).unwrap()
    };
    let shown = on_terminal("import many.ndjson");
    for part in [" % ", " left", "events/s", "30000 stored, 0 skipped, 0 rejected"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(on_terminal("import -q many.ndjson"), "");
    let output = test_dir.run(&["import", "many.ndjson"]).assert_exit_code(0);
    assert_eq!(output.stderr, "0 stored, 30000 skipped, 0 rejected\n");
}
