//! `events` compared with real Docker Engines, which `tests/setup/engine.sh` starts. The store must contain what the
//! engine sent, and queries must answer as the engine does, also when the recorder or the engine is killed.
//!
//! Needs root on Debian bookworm: `cargo test --test real engines`. If an engine cannot be started, the test fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::support::command::{Running, TestDir, eventually, run};
use crate::support::docker::{
    Engine, Follower, RecordingProxy, compare_lines, parse_event, run_full_scenario, sorted_by_time, time_nano,
};
use chrono::DateTime;
use fastrand::Rng;
use serde_json::{Value, json};

macro_rules! on_engines {
    ($($module:ident is $version:literal),+; $tests:tt) => { $(on_engine! { $module is $version; $tests })+ };
}

macro_rules! on_engine {
    ($module:ident is $version:literal; [$($test:ident),+ $(,)?]) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test($version);
            })+
        }
    };
}

on_engines! {
    docker_20 is "20", docker_26 is "26", docker_newest is "newest";
    [
        records_the_same_events_as_curl,
        filters_agree_with_the_engine,
        query_start_shows_exactly_the_started_containers,
        a_killed_recorder_neither_loses_nor_duplicates_events,
        an_engine_restart_leaves_one_gap,
        a_killed_engine_leaves_one_gap,
        a_gap_describes_what_happened_to_the_containers,
        text_output_equals_that_of_the_docker_client,
        history_follows_an_engine_to_another_socket,
        health_checks_are_left_out_and_manual_execs_are_kept,
    ]
}

on_engines! {
    doctor_20 is "20", doctor_newest is "newest";
    [doctor_exercises_a_container_and_removes_it, doctor_reports_the_problem_with_an_image]
}

on_engines! { under_fire is "newest"; [twenty_kills_of_the_engine_lose_no_event_that_it_sent] }

fn doctor_exercises_a_container_and_removes_it(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let exercise = ["doctor", "-H", &engine.host, "--exercise", "busybox"];
    let steps = |output: &crate::support::command::Output| -> Vec<String> {
        let lines = output.lines().into_iter().filter_map(|line| Some(line.strip_prefix("  ✓ ")?.to_owned()));
        lines.skip_while(|line| !line.starts_with("the engine lists its containers: ")).collect()
    };
    let output = run(test_dir.command(&exercise)).assert_success();
    let steps_without_recorder = steps(&output);
    assert_eq!(steps_without_recorder[1], "started a recorder with a temporary store");
    let expected_steps = [
        "created a container without a terminal: ",
        "inspected the container",
        "ran the container; it exited with 7, as expected",
        "found its events in the store: create, start, die",
        "read its logs, stdout and stderr separately",
        "created a container with a terminal: ",
        "inspected the container",
        "ran the container; it exited with 7, as expected",
        "found its events in the store: create, start, die",
        "read its logs, one raw stream",
        "removed the container ",
        "removed the container ",
    ];
    assert!(
        expected_steps.iter().zip(&steps_without_recorder[2..]).all(|(step, line)| line.starts_with(step)),
        "{}",
        output.report()
    );
    assert!(!test_dir.db().exists(), "the store is not touched");
    assert_eq!(engine.docker(&["ps", "-aq"]), "");

    let recorder = test_dir.record(&engine.host, &[]);
    test_dir.eventually("the recorder is connected", || match test_dir.json(&["status", "--json"]) {
        status if status[0]["sources"][0]["connected"] == true => Ok(()),
        status => Err(status),
    });
    let output = run(test_dir.command(&exercise)).assert_success();
    assert_eq!(steps(&output)[1], format!("a running recorder stores its events in {}", test_dir.db().display()));
    recorder.stop();
    let died = ["query", "-q", "--label", "events.doctor=1", "--action", "die", "--label", "exitCode=7", "--count"];
    assert_eq!(test_dir.lines(&died), ["4"]);
    assert_eq!(engine.docker(&["ps", "-aq"]), "");
}

fn doctor_reports_the_problem_with_an_image(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    std::fs::write(test_dir.path("empty.tar"), [0; 1024]).expect("a file");
    engine.docker(&["import", &test_dir.path("empty.tar").display().to_string(), "nothing"]);
    for (image, hint) in [("no-such-image", "`docker pull no-such-image`"), ("nothing", "an image with `sh`")] {
        let output =
            run(test_dir.command(&["doctor", "-q", "-H", &engine.host, "--exercise", image])).assert_exit_code(1);
        let lines = output.lines();
        assert_eq!(lines.len(), 2, "{}", output.report());
        assert!(lines[0].starts_with("  ✗ ") && lines[1].contains(hint), "{}", output.report());
        assert_eq!(engine.docker(&["ps", "-aq"]), "", "{image}");
    }
}

fn records_the_same_events_as_curl(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    // With a short interval between backlog checks, recorded events arrive again and again.
    let recorder = test_dir.record(&engine.host, &["--look-again", "1s"]);
    let curl = engine.follow(&test_dir);
    run_full_scenario(&engine);
    wait_until_recorded_as_by_curl(&engine, &test_dir, &curl);
    recorder.stop();

    let name = only_source(&test_dir)["name"].as_str().expect("a source has a name").to_owned();
    let ours = test_dir.lines(&["query", "--source", &name]);
    compare_lines(&curl.lines(), &ours).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(sorted_by_time(ours.clone()), ours, "query prints by time");
    assert_every_kind_occurred(&ours);
    assert_eq!(gaps(&test_dir), [] as [Value; 0]);
    assert_eq!(test_dir.lines(&["rejected"]), [] as [&str; 0]);
}

fn filters_agree_with_the_engine(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let recorder = test_dir.record(&engine.host, &[]);
    run_full_scenario(&engine);
    wait_until_backlog_is_recorded(&engine, &test_dir);
    recorder.stop();
    let backlog = engine.backlog();
    let end = backlog.iter().map(|line| time_nano(line)).max().expect("there are events") + 10;
    let random = Generator::from(&backlog).combinations(RANDOM_COMBINATIONS);
    let (mut hits, mut mismatches) = (0, Vec::new());
    let combinations: Vec<Combination> = fixed_combinations().into_iter().chain(random).collect();
    for (index, combination) in combinations.iter().enumerate() {
        let theirs = sorted_by_time(engine.events(&combination.parameters(index % 2 == 0, end)));
        let ours = sorted_by_time(
            test_dir.lines(&combination.query_args(index % 3 == 0).iter().map(|w| &**w).collect::<Vec<_>>()),
        );
        hits += usize::from(!theirs.is_empty());
        if theirs != ours {
            let difference = compare_lines(&theirs, &ours).err().unwrap_or_else(|| "the order differs".into());
            mismatches.push(format!("{combination:?}: {} and {} lines: {difference}", theirs.len(), ours.len()));
        }
    }
    assert_eq!(engine.backlog(), backlog, "no event happened during the comparison");
    let count = combinations.len();
    print_to_stderr(&format!(
        "{count} combinations of filters compared, {hits} with hits, over {} events",
        backlog.len()
    ));
    assert!(mismatches.is_empty(), "{} of {count} differ:\n{}", mismatches.len(), mismatches.join("\n"));
    assert!(hits >= count / 3 && count - hits >= 20, "{hits} of {count} have hits: one case is hardly tested");
}

fn query_start_shows_exactly_the_started_containers(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let recorder = test_dir.record(&engine.host, &[]);
    let mut expected = Vec::new();
    for name in ["one", "two", "three"] {
        expected.push(engine.container(&["--name", name]));
        engine.docker(&["exec", name, "echo", "start"]);
        engine.docker(&["create", "--name", &format!("{name}-not-started"), "busybox"]);
    }
    engine.docker(&["rm", "-f", "two"]);
    let args = ["query", "--type", "container", "--action", "start"];
    test_dir.eventually("the started containers are shown", || {
        let started = actor_ids(&test_dir.lines(&args));
        if started == expected { Ok(()) } else { Err(format!("{started:?} instead of {expected:?}")) }
    });
    recorder.stop();
    assert_eq!(actor_ids(&test_dir.lines(&args)), expected);
}

fn a_killed_recorder_neither_loses_nor_duplicates_events(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let curl = engine.follow(&test_dir);
    // Without backlog checks: an event missed when the recorder reconnects stays missed.
    let record = || test_dir.record(&engine.host, &["--look-again", "0"]);
    let mut recorder = record();
    let loads = [engine.keep_busy(), engine.keep_busy()];
    for round in 0..5 {
        // In every other round the recorder is killed right after its start.
        if round % 2 == 0 {
            wait_for_growth("the store", || test_dir.lines(&["query"]).len(), 10);
        }
        recorder.kill();
        wait_for_growth("the output of curl", || curl.lines().len(), 10);
        recorder = record();
    }
    loads.into_iter().for_each(crate::support::docker::BackgroundLoad::stop);
    wait_until_recorded_as_by_curl(&engine, &test_dir, &curl);
    recorder.stop();
    compare_lines(&curl.lines(), &test_dir.lines(&["query"])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(gaps(&test_dir), [] as [Value; 0]);
}

fn an_engine_restart_leaves_one_gap(version: &'static str) {
    check_one_gap_after_engine_stop(version, Engine::stop);
}

fn a_killed_engine_leaves_one_gap(version: &'static str) {
    check_one_gap_after_engine_stop(version, Engine::kill);
}

/// Prints a row for the table of `tests/under_fire.rs`: a real engine is killed at random moments while containers
/// start and exit. An event is obtainable if the engine sent it to the recorder; a proxy between them records this.
fn twenty_kills_of_the_engine_lose_no_event_that_it_sent(version: &'static str) {
    const ROUNDS: usize = 20;
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let proxy = RecordingProxy::start(&engine, &test_dir);
    let recorder = test_dir.record(&proxy.host(), &[]);
    let mut emitted = BTreeSet::new();
    for round in 0..ROUNDS {
        let load = engine.keep_busy_unchecked();
        // At a random moment: after a random number of events.
        let min_events = fastrand::usize(6..30);
        test_dir.eventually("enough events are emitted", || {
            let now = engine.backlog();
            if now.len() >= min_events { Ok(()) } else { Err(now.len()) }
        });
        emitted.extend(engine.backlog());
        engine.kill();
        load.stop();
        engine.start_again(&[]);
        engine.docker(&["run", "--rm", "--name", &format!("after-{round}"), "--network", "none", "busybox", "true"]);
        test_dir.eventually("events after the restart are recorded", || {
            let stored = test_dir.lines(&["query", "-q"]);
            let missing = engine.backlog().into_iter().find(|line| !stored.contains(line));
            missing.map_or(Ok(()), Err)
        });
    }
    emitted.extend(engine.backlog());
    let peak_mb = recorder.peak_memory().expect("the recorder runs").div_ceil(1_000_000);
    recorder.stop();
    let sent_events = proxy.events();
    emitted.extend(sent_events.iter().cloned());

    let stored = test_dir.lines(&["query", "-q"]);
    let stored_set: BTreeSet<_> = stored.iter().cloned().collect();
    let gaps = gaps(&test_dir);
    let is_in_gap = |line: &String| {
        let at = json!(rfc3339(time_nano(line)));
        let (at, bound) = (at.as_str(), |gap: &Value, key| gap[key].as_str().map(str::to_owned));
        gaps.iter().any(|gap| {
            bound(gap, "from").as_deref() <= at && bound(gap, "to").as_deref().is_none_or(|to| at <= Some(to))
        })
    };
    let lost: Vec<_> = sent_events.difference(&stored_set).collect();
    let unexplained: Vec<_> = emitted.difference(&stored_set).filter(|line| !is_in_gap(line)).collect();
    let doubled = stored.len() - stored_set.len();
    // Written to stderr directly, because the test harness captures the output of `println!`.
    let _ = writeln!(
        std::io::stderr(),
        "| SIGKILL and restart of a real engine ({version}) | {ROUNDS} | {} | {} | {} | {} | {doubled} | {} | {} | {peak_mb} MB |",
        emitted.len(),
        sent_events.union(&stored_set).count(),
        stored_set.len(),
        lost.len(),
        unexplained.len(),
        gaps.len(),
    );
    assert_eq!((lost, doubled, unexplained), (vec![], 0, vec![]));
    assert!(stored_set.is_subset(&emitted), "every stored event was sent by the engine");
    assert!(peak_mb < 200, "{peak_mb} MB");
}

fn check_one_gap_after_engine_stop(version: &'static str, stop_engine: fn(&Engine)) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let recorder = test_dir.record(&engine.host, &[]);
    engine.container(&["--name", "before"]);
    wait_until_recorded(&test_dir, &engine.backlog());
    let backlog_before = engine.backlog();

    stop_engine(&engine);
    wait_until_connected(&test_dir, &recorder, false);
    let open = test_dir.eventually("a gap is open", || one_gap(&test_dir));
    assert_eq!(open["to"], Value::Null, "{open}");
    let before = test_dir.lines(&["query", "-q"]);
    let last_seen = last_stored_time(&test_dir);
    assert_eq!(open["from"], rfc3339(last_seen), "{open}");
    assert!(backlog_before.iter().all(|line| before.contains(line)), "events from before the end are stored");

    engine.start_again(&[]);
    wait_until_connected(&test_dir, &recorder, true);
    engine.docker(&["run", "--rm", "--name", "after", "busybox", "true"]);
    test_dir.eventually("events from before and after are stored once", || {
        let expected = [before.clone(), engine.backlog()].concat();
        compare_lines(&expected, &test_dir.lines(&["query", "-q"]))
    });
    let gap = one_gap(&test_dir).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((&gap["reason"], &gap["from"]), (&json!("engine-restart"), &json!(rfc3339(last_seen))), "{gap}");
    let (to, first_after) = (gap["to"].as_str().expect("the gap is closed"), engine.backlog()[0].clone());
    assert!(*rfc3339(last_seen) < *to && *to <= *rfc3339(time_nano(&first_after)), "{gap}, then {first_after}");
    assert_eq!(only_source(&test_dir)["gaps"], 1);

    recorder.stop();
    // A container diff may have been added to the detail.
    let bounds = |gap: &Value| json!([gap["from"], gap["to"], gap["reason"]]);
    assert_eq!(one_gap(&test_dir).as_ref().map(bounds), Ok(bounds(&gap)));
    let expected = [before, engine.backlog()].concat();
    compare_lines(&expected, &test_dir.lines(&["query", "-q"])).unwrap_or_else(|e| panic!("{e}"));
}

fn a_gap_describes_what_happened_to_the_containers(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let network_args = ["--network", "none"];
    let run = |name: &str| engine.container(&[&["--name", name][..], &network_args].concat());
    let (web, db, calm) = (run("web"), run("db"), run("calm"));
    let old = engine.docker(&["create", "--name", "old", "busybox"]);
    let recorder = test_dir.record(&engine.host, &[]);
    wait_until_recorded(&test_dir, &engine.backlog());
    test_dir.eventually("a snapshot of the containers is stored", || {
        let db = rusqlite::Connection::open(test_dir.db()).map_err(|e| e.to_string())?;
        db.query_row("SELECT taken_nano FROM snapshot", [], |row| row.get::<_, i64>(0)).map_err(|e| e.to_string())
    });
    recorder.kill();

    engine.docker(&["kill", "web"]);
    engine.docker(&["restart", "-t", "1", "db"]);
    engine.docker(&["rm", "old"]);
    assert_eq!(
        engine
            .docker_unchecked(&["run", "--name", "job", "--network", "none", "busybox", "sh", "-c", "exit 7"])
            .status
            .code(),
        Some(7)
    );
    let job = engine.docker(&["inspect", "-f", "{{.Id}}", "job"]);
    for n in 0..130 {
        let volume = format!("volume-{n}");
        engine.docker(&["volume", "create", &volume]);
        engine.docker(&["volume", "rm", &volume]);
    }
    // The events of this container are still in the backlog.
    let seen = run("seen");
    let recorder = test_dir.record(&engine.host, &[]);
    wait_until_recorded(&test_dir, &engine.backlog());
    let gap = test_dir.eventually("the gap has a container diff", || {
        let gap = one_gap(&test_dir)?;
        let has_diff = gap["detail"].as_str().is_some_and(|detail| detail.contains("; in the gap: "));
        if has_diff { Ok(gap) } else { Err(format!("{gap}\n{}", recorder.log())) }
    });
    recorder.stop();
    assert_eq!(gap["reason"], "overrun");
    let detail = gap["detail"].as_str().expect("a text");
    let time = |name: &str, field: &str| {
        let time = engine.docker(&["inspect", "-f", &format!("{{{{.{field}}}}}"), name]);
        rfc3339(DateTime::parse_from_rfc3339(&time).expect("a time").timestamp_nanos_opt().expect("in range"))
    };
    let name_and_id = |name: &str, id: &str| format!("{name} ({})", &id[..12]);
    for expected in [
        format!("{} exited with 137 at {}", name_and_id("web", &web), time("web", "State.FinishedAt")),
        format!(
            "{} exited at {} and was started at {}",
            name_and_id("db", &db),
            time("db", "State.FinishedAt"),
            time("db", "State.StartedAt")
        ),
        format!(
            "{} was created at {}, was started at {} and exited with 7 at {}",
            name_and_id("job", &job),
            time("job", "Created"),
            time("job", "State.StartedAt"),
            time("job", "State.FinishedAt")
        ),
        format!("{} was removed", name_and_id("old", &old)),
    ] {
        assert!(detail.contains(&expected), "missing: {expected}\n{detail}");
    }
    for (name, id) in [("calm", &calm), ("seen", &seen)] {
        assert!(!detail.contains(&name_and_id(name, id)), "{detail}");
    }
}

fn health_checks_are_left_out_and_manual_execs_are_kept(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let check_args = ["--network", "none", "--health-interval", "1s", "--health-cmd"];
    let start = |name: &str, args: &[&str]| {
        engine.docker(&[&["run", "-d", "--stop-signal", "KILL", "--name", name][..], args, &["sleep", "1000"]].concat())
    };
    let check = "test -d / && echo \"a  b\" é <&>";
    // One container was started before the recorder, one is started after it, and one has a check from its image, which
    // has its own shell.
    let before = start("before", &[&check_args[..], &[check, "busybox"]].concat());
    test_dir.eventually("the health check runs", || {
        if engine.backlog().iter().any(|line| line.contains("exec_die")) { Ok(()) } else { Err(()) }
    });
    let recorder = test_dir.record(&engine.host, &[]);
    let (filtered_dir, db) = (TestDir::new(), test_dir.db());
    let filtering_recorder = filtered_dir.record(&engine.host, &["--no-healthchecks"]);
    let later = start("later", &[&check_args[..], &["true", "busybox"]].concat());
    let context = test_dir.path("checked");
    std::fs::create_dir(&context).expect("the directory is created");
    let lines =
        ["FROM busybox", r#"SHELL ["/bin/busybox", "sh", "-c"]"#, "HEALTHCHECK --interval=1s CMD echo of the image"];
    std::fs::write(context.join("Dockerfile"), lines.join("\n")).expect("the file is written");
    let mut build = engine.client(&["build", "-t", "checked:1", context.to_str().expect("a path is text")]);
    build.env("DOCKER_BUILDKIT", "0");
    run(build).assert_exit_code(0);
    let image = start("image", &["--network", "none", "checked:1"]);
    let calm = engine.container(&["--name", "calm", "--network", "none"]);
    for name in ["before", "later", "image", "calm"] {
        engine.docker(&["exec", name, "echo", name]);
    }
    // In a container without health check, this command was run by a person. In `later` it equals the health check, and
    // the events of the two do not differ.
    engine.docker(&["exec", "calm", "/bin/sh", "-c", "true"]);
    engine.docker(&["exec", "later", "/bin/sh", "-c", "true"]);
    let execs = |test_dir: &TestDir, args: &[&str]| -> Vec<(String, String)> {
        let lines = test_dir.json(&[&["query", "-q", "--type", "container"], args].concat());
        let exec = |line: &Value| {
            let (action, id) = (line["Action"].as_str()?, line["Actor"]["ID"].as_str()?);
            action.starts_with("exec_").then(|| (id.to_owned(), action.to_owned()))
        };
        lines.iter().filter_map(exec).collect()
    };
    test_dir.eventually("every health check runs several times", || {
        let all = execs(&test_dir, &[]);
        let checks =
            |id: &String| all.iter().filter(|(container, action)| container == id && action == "exec_die").count();
        let counts = [&before, &later, &image].map(checks);
        if counts.iter().all(|count| *count > 3) { Ok(()) } else { Err(counts) }
    });
    recorder.stop();
    filtering_recorder.stop();
    let echo = |id: &String, command: &str| {
        ["exec_create: ", "exec_start: "]
            .map(|step| (id.clone(), format!("{step}{command}")))
            .into_iter()
            .chain([(id.clone(), "exec_die".to_owned())])
    };
    let mut expected: Vec<_> =
        echo(&before, "echo before").chain(echo(&later, "echo later")).chain(echo(&image, "echo image")).collect();
    expected.extend(echo(&calm, "echo calm"));
    expected.extend(echo(&calm, "/bin/sh -c true"));
    let mut without_checks = execs(&test_dir, &["--no-healthchecks"]);
    // A check that ran when the recorder stopped has no end, and one that ran when it started has no beginning.
    without_checks.sort();
    expected.sort();
    assert_eq!(without_checks, expected, "{}", db.display());
    let mut stored = execs(&filtered_dir, &[]);
    stored.sort();
    assert_eq!(stored, expected);
    let all = execs(&test_dir, &[]).len();
    let left_out = only_source(&filtered_dir)["healthchecks_left_out"].as_u64().expect("a number") as usize;
    // The two recorders do not stop at the same moment.
    assert!(left_out > 30 && left_out.abs_diff(all - expected.len()) <= 20, "{left_out} of {all}");
    let healthy = |test_dir: &TestDir| test_dir.lines(&["query", "-q", "--action", "health_status"]).len();
    assert_eq!((healthy(&test_dir), healthy(&filtered_dir)), (3, 3));
    for test_dir in [&test_dir, &filtered_dir] {
        test_dir.run(&["verify", "-q"]).assert_success();
    }
}

fn text_output_equals_that_of_the_docker_client(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let recorder = test_dir.record(&engine.host, &[]);
    run_full_scenario(&engine);
    wait_until_backlog_is_recorded(&engine, &test_dir);
    recorder.stop();
    let until = unix_time(time_nano(engine.backlog().last().expect("there are events")));
    for zone in ["UTC", "Asia/Kolkata", "America/St_Johns"] {
        let mut client = engine.client(&["events", "--since", "0", "--until", &until]);
        client.env("TZ", zone);
        let theirs = run(client).assert_success().lines();
        let mut ours = test_dir.command(&["query", "-q", "--format", "text", "--since", "0", "--until", &until]);
        ours.env("TZ", zone);
        let ours = run(ours).assert_success().lines();
        assert!(theirs.len() > 100, "{} lines", theirs.len());
        compare_lines(&theirs, &ours).unwrap_or_else(|e| panic!("in {zone}: {e}"));
    }
}

fn history_follows_an_engine_to_another_socket(version: &'static str) {
    let (engine, test_dir) = (Engine::start(version), TestDir::new());
    let recorder = test_dir.record(&engine.host, &[]);
    engine.container(&["--name", "here"]);
    wait_until_recorded(&test_dir, &engine.backlog());
    recorder.stop();
    let source_before = only_source(&test_dir);
    assert_eq!(source_before["host"], engine.host);
    engine.stop();

    let new_host = format!("unix://{}", test_dir.path("other.sock").display());
    engine.start_again(&["-H", &new_host]);
    let recorder = test_dir.record(&new_host, &[]);
    let second_container = engine.container(&["--name", "there"]);
    wait_until_recorded(&test_dir, &engine.backlog());
    recorder.stop();

    let source = only_source(&test_dir);
    assert_eq!(source["host"], new_host);
    assert_eq!((&source["engine_id"], &source["name"]), (&source_before["engine_id"], &source_before["name"]));
    let name = source["name"].as_str().expect("a source has a name");
    let started = test_dir.lines(&["query", "-q", "--source", name, "--action", "start"]);
    assert_eq!(actor_ids(&started).last(), Some(&second_container));
    assert_eq!(actor_ids(&started).len(), 2, "{started:?}");
    assert_eq!(one_gap(&test_dir).unwrap_or_else(|e| panic!("{e}"))["reason"], "engine-restart");
}

/// Waits until curl has received the last event and the store contains exactly what curl received.
fn wait_until_recorded_as_by_curl(engine: &Engine, test_dir: &TestDir, curl: &Follower) {
    engine.docker(&["volume", "create", "the-end"]);
    test_dir.eventually("the store contains what curl received", || {
        let theirs = curl.lines();
        if !theirs.iter().any(|line| parse_event(line)["Actor"]["ID"] == "the-end") {
            return Err("curl has not received the last event".to_owned());
        }
        compare_lines(&theirs, &test_dir.lines(&["query"]))
    });
}

/// Waits until the store contains exactly the backlog.
fn wait_until_backlog_is_recorded(engine: &Engine, test_dir: &TestDir) {
    engine.docker(&["volume", "create", "the-end"]);
    test_dir.eventually("the store contains the backlog", || {
        let backlog = engine.backlog();
        assert!(backlog.len() < 256, "the scenario is too long for the backlog");
        compare_lines(&backlog, &test_dir.lines(&["query"]))
    });
}

/// Waits until these lines are recorded.
fn wait_until_recorded(test_dir: &TestDir, lines: &[String]) {
    test_dir.eventually("all lines are recorded", || {
        let ours = test_dir.lines(&["query", "-q"]);
        let missing: Vec<&String> = lines.iter().filter(|line| !ours.contains(line)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing: {missing:?}")) }
    });
}

/// Waits until a size has grown by `by`.
fn wait_for_growth(what: &str, size: impl Fn() -> usize, by: usize) {
    let before = size();
    eventually(&format!("{what} grows by {by}"), || {
        let now = size();
        if now >= before + by { Ok(()) } else { Err(format!("from {before} to {now}")) }
    });
}

/// Waits until `status` reports the only source as connected or not. The recorder must keep running.
fn wait_until_connected(test_dir: &TestDir, recorder: &Running, expected: bool) {
    test_dir.eventually(&format!("connected is {expected}"), || {
        let status = status(test_dir);
        assert_eq!(
            (&status["recorder"]["running"], &status["recorder"]["pid"]),
            (&json!(true), &json!(recorder.pid()))
        );
        if status["sources"][0]["connected"] == expected {
            Ok(())
        } else {
            Err(format!("{status}\n{}", recorder.log()))
        }
    });
}

fn status(test_dir: &TestDir) -> Value {
    test_dir.json(&["status", "--json"]).remove(0)
}

/// The only source, as `status` reports it.
fn only_source(test_dir: &TestDir) -> Value {
    let status = status(test_dir);
    assert_eq!(status["sources"].as_array().map(Vec::len), Some(1), "{status}");
    status["sources"][0].clone()
}

/// All gaps but the first, whose reason must be `first-contact`.
fn gaps(test_dir: &TestDir) -> Vec<Value> {
    let mut gaps = test_dir.json(&["gaps"]);
    assert_eq!(gaps[0]["reason"], "first-contact", "{gaps:?}");
    gaps.remove(0);
    gaps
}

fn one_gap(test_dir: &TestDir) -> Result<Value, String> {
    let mut gaps = gaps(test_dir);
    if gaps.len() == 1 { Ok(gaps.remove(0)) } else { Err(format!("not one gap: {gaps:?}")) }
}

/// Time of the event that was stored last.
fn last_stored_time(test_dir: &TestDir) -> i64 {
    let stored = test_dir.json(&["query", "-q", "--envelope"]);
    let last = stored.iter().max_by_key(|stored| stored["seq"].as_i64()).expect("something is stored");
    last["event"]["timeNano"].as_i64().expect("an event has a time")
}

fn actor_ids(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| parse_event(line)["Actor"]["ID"].as_str().expect("an event has an actor").to_owned())
        .collect()
}

fn rfc3339(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string()
}

/// Seconds since the epoch with nanoseconds, as the engine and the docker client accept them.
fn unix_time(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Asserts that the scenario produced every expected kind of event, so that an incomplete scenario passes no test.
fn assert_every_kind_occurred(lines: &[String]) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for event in lines.iter().map(|line| parse_event(line)) {
        let action = event["Action"].as_str().expect("an event has an action").split(": ").next().unwrap_or_default();
        *kinds.entry(format!("{} {action}", event["Type"].as_str().expect("an event has a type"))).or_default() += 1;
    }
    for kind in [
        "container attach",
        "container create",
        "container destroy",
        "container die",
        "container exec_create",
        "container exec_die",
        "container exec_start",
        "container health_status",
        "container kill",
        "container pause",
        "container prune",
        "container rename",
        "container start",
        "container stop",
        "container unpause",
        "image delete",
        "image pull",
        "image push",
        "image tag",
        "image untag",
        "network connect",
        "network create",
        "network destroy",
        "network disconnect",
        "secret create",
        "volume create",
        "volume destroy",
        "volume mount",
        "daemon reload",
    ] {
        assert!(kinds.contains_key(kind), "no {kind} in {kinds:?}");
    }
    let oom = if kinds.contains_key("container oom") { "with" } else { "without" };
    print_to_stderr(&format!("{} events of {} kinds, {oom} oom", lines.len(), kinds.len()));
}

/// Prints a line to stderr, also if the test passes: the harness captures only the output of `println!`.
fn print_to_stderr(text: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: {text}");
}

/// Number of random combinations, and the seed. Between runs, the events they are drawn from differ only in their IDs.
const RANDOM_COMBINATIONS: usize = 250;
const SEED: u64 = 256;

/// Keys that match by a prefix of an ID or a name.
const PREFIX_KEYS: [&str; 9] =
    ["container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config"];

/// A query for the engine and for the store.
#[derive(Debug)]
struct Combination {
    filters: Vec<(&'static str, String)>,
    since: Option<i64>,
    until: Option<i64>,
}

impl Combination {
    /// Parameters of a request, with the filters in one of the two forms that an engine accepts. If the combination has
    /// no `until`, the `end` of all events is used: without `until` the response would stay open.
    fn parameters(&self, as_lists: bool, end: i64) -> Vec<(&'static str, String)> {
        let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        self.filters.iter().for_each(|(key, value)| by_key.entry(key).or_default().push(value));
        let maps = by_key.iter().map(|(key, values)| (*key, values.iter().map(|value| (*value, true)).collect()));
        let maps: BTreeMap<&str, BTreeMap<&str, bool>> = maps.collect();
        let filters = if as_lists { json!(by_key) } else { json!(maps) };
        let since = self.since.map_or_else(|| "0".into(), unix_time);
        vec![("since", since), ("until", unix_time(self.until.unwrap_or(end))), ("filters", filters.to_string())]
    }

    /// Arguments of `query`. If `short`, a flag such as `--type` replaces `--filter type=` where one exists.
    fn query_args(&self, short: bool) -> Vec<String> {
        let mut args = vec!["query".to_owned(), "-q".into()];
        for (flag, instant) in [("--since", self.since), ("--until", self.until)] {
            args.extend(instant.iter().flat_map(|instant| [flag.to_owned(), unix_time(*instant)]));
        }
        for (key, value) in &self.filters {
            match *key {
                "event" if short => args.push(format!("--action={value}")),
                "type" | "container" | "image" | "label" | "network" | "volume" | "scope" if short => {
                    args.push(format!("--{key}={value}"));
                }
                _ => args.extend(["--filter".into(), format!("{key}={value}")]),
            }
        }
        args
    }
}

/// Fixed combinations, one for each quirk of the filters, about events that the scenario always produces.
fn fixed_combinations() -> Vec<Combination> {
    let of = |filters: &[(&'static str, &str)]| Combination {
        filters: filters.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        since: None,
        until: None,
    };
    [
        &[][..],
        &[("type", "container")],
        &[("type", "container"), ("type", "image")],
        &[("type", "Container")],
        &[("type", "")],
        &[("type", "contain")],
        &[("event", "start"), ("event", "die")],
        &[("event", "exec_create")],
        &[("event", "exec_create"), ("event", "di"), ("event", "ta")],
        &[("event", "exec_start: true")],
        &[("event", "exec_start:")],
        &[("event", "health_status")],
        &[("event", "health_status: healthy")],
        &[("event", "exec_die"), ("event", "health_status"), ("event", "")],
        &[("event", "exec")],
        &[("event", "START")],
        &[("event", "")],
        &[("container", "web")],
        &[("container", "/web")],
        &[("container", "WEB")],
        &[("container", "")],
        &[("container", "vol-data")],
        &[("container", "web"), ("network", "team")],
        &[("volume", "vol-data")],
        &[("volume", "web.renamed")],
        &[("volume", "copied"), ("volume", "team-net")],
        &[("network", "bridge")],
        &[("network", "team-net"), ("type", "network"), ("event", "disconnect")],
        &[("daemon", "")],
        &[("type", "daemon"), ("event", "reload")],
        &[("plugin", "web")],
        &[("node", ""), ("scope", "swarm")],
        &[("secret", "team-"), ("config", "team-")],
        &[("config", "team-config")],
        &[("service", "team-service"), ("scope", "local")],
        &[("scope", "swarm"), ("scope", "local")],
        &[("scope", "Local")],
        &[("image", "busybox")],
        &[("image", "busybox:latest")],
        &[("image", "docker.io/library/busybox:latest")],
        &[("image", "busy")],
        &[("image", "")],
        &[("image", "team/app"), ("type", "container")],
        &[("image", "localhost:5000/team/app"), ("image", "second")],
        &[("image", "localhost:5000/team/app:v3")],
        &[("image", "sha256")],
        &[("label", "tier")],
        &[("label", "tier=front"), ("label", "bare")],
        &[("label", "tier=front"), ("label", "tier=back")],
        &[("label", "tier=fron")],
        &[("label", "tier=")],
        &[("label", "empty=")],
        &[("label", "bare=")],
        &[("label", "equation=a=b=c")],
        &[("label", "equation=a")],
        &[("label", "exitCode=7")],
        &[("label", "signal"), ("event", "kill")],
        &[("label", "name=web")],
        &[("label", "com.example.team=Grüße, 世界 🚀")],
        &[("label", "markup=<a href=\"x\">&amp; 'y'</a>")],
        &[("label", "lines=one\ntwo\tthree\r\u{1}\u{7f}")],
        &[("label", "separators")],
        &[("label", "path=C:\\dir\\")],
        &[("label", "")],
        &[("label", "="), ("type", "container")],
    ]
    .into_iter()
    .map(of)
    .collect()
}

/// Draws combinations from the recorded events, and alters some values so that they no longer match.
struct Generator {
    rng: Rng,
    events: Vec<Value>,
    instants: Vec<i64>,
}

impl Generator {
    /// Creates a source of combinations from events in the engine's order.
    fn from(backlog: &[String]) -> Generator {
        Generator {
            rng: Rng::with_seed(SEED),
            events: backlog.iter().map(|line| parse_event(line)).collect(),
            instants: backlog.iter().map(|line| time_nano(line)).collect(),
        }
    }

    fn combinations(mut self, count: usize) -> Vec<Combination> {
        (0..count).map(|_| self.combination()).collect()
    }

    /// Most values match one event, because an event must match all keys.
    fn combination(&mut self) -> Combination {
        let event = self.rng.usize(..self.events.len());
        let mut filters = Vec::new();
        for _ in 0..self.rng.choice([0, 1, 1, 1, 2, 2, 3]).expect("a choice") {
            let key = self.key();
            for _ in 0..self.rng.choice([1, 1, 1, 2, 3]).expect("a choice") {
                filters.push((key, self.value(key, event)));
            }
        }
        let since = if self.rng.u8(..3) == 0 { self.near_an_event(event) } else { None };
        let since = since.filter(|since| !self.hides_events_since(*since));
        let until = if self.rng.u8(..3) == 0 { self.near_an_event(event) } else { None };
        Combination { filters, since, until: until.filter(|until| since.is_none_or(|since| since <= *until)) }
    }

    fn key(&mut self) -> &'static str {
        let common = ["type", "event", "event", "scope", "image", "image", "label", "label", "container", "container"];
        let all = [&common[..], &PREFIX_KEYS].concat();
        self.rng.choice(all).expect("a choice")
    }

    fn value(&mut self, key: &str, event: usize) -> String {
        let event = if self.rng.u8(..4) == 0 { self.rng.usize(..self.events.len()) } else { event };
        let candidates = self.values_of(key, event);
        let value = self.rng.choice(candidates).expect("every event has a value for every key");
        let value = if self.rng.u8(..8) == 0 { self.altered(&value) } else { value };
        value.trim().to_owned() // The command line trims values too.
    }

    /// Values of this event, and values that a user could search for it with.
    fn values_of(&mut self, key: &str, event: usize) -> Vec<String> {
        let event = &self.events[event];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let attributes = event["Actor"]["Attributes"].as_object().cloned().unwrap_or_default();
        let attribute = |key: &str| attributes.get(key).map(text).unwrap_or_default();
        let (id, action) = (text(&event["Actor"]["ID"]), text(&event["Action"]));
        match key {
            "type" => vec![text(&event["Type"])],
            "scope" => vec![text(&event["scope"])],
            "event" => {
                let plain = action.split(':').next().unwrap_or_default().to_owned();
                let fuzzy = ["exec_create", "exec_start", "health_status"].map(str::to_owned);
                [vec![action.clone(), action, plain.clone(), plain], fuzzy.to_vec()].concat()
            }
            "image" => image_names(&[id, attribute("image"), attribute("name")]),
            "label" => {
                let labels = attributes.iter().flat_map(|(key, value)| [key.clone(), format!("{key}={}", text(value))]);
                let labels: Vec<String> = labels.collect();
                if labels.is_empty() { vec!["none".into()] } else { labels }
            }
            _ => with_prefixes(&[id, attribute("name")], &mut self.rng),
        }
    }

    fn altered(&mut self, value: &str) -> String {
        let half = value.chars().count() / 2;
        match self.rng.u8(..6) {
            0 => String::new(),
            1 => value.to_uppercase(),
            2 => value.chars().take(half).collect(),
            3 => format!("{value}x"),
            4 => format!("/{value}"),
            _ => "no-such-thing".into(),
        }
    }

    /// Time of an event, or a nanosecond before or after it.
    fn near_an_event(&mut self, event: usize) -> Option<i64> {
        let at = if self.rng.bool() { event } else { self.rng.usize(..self.instants.len()) };
        Some(self.instants[at] + self.rng.i64(-1..=1))
    }

    /// Returns true if the engine hides events after `since`. It walks back through its backlog to the first event that
    /// is older than `since`, and a newer concurrent event can precede that one.
    fn hides_events_since(&self, since: i64) -> bool {
        let older = self.instants.iter().rposition(|instant| *instant < since).unwrap_or(0);
        self.instants[..older].iter().any(|instant| *instant >= since)
    }
}

/// Names of an image: unchanged, without tag or digest, fully qualified, and with a tag.
fn image_names(names: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        let bare = name.rsplit_once(':').map_or(&**name, |(bare, _)| bare);
        let undigested = name.split('@').next().unwrap_or_default();
        all.extend([name.clone(), bare.into(), undigested.into()]);
        all.extend([format!("docker.io/library/{name}"), format!("{bare}:latest")]);
    }
    if all.is_empty() { vec!["busybox".into()] } else { all }
}

/// The texts, and prefixes of them.
fn with_prefixes(texts: &[String], rng: &mut Rng) -> Vec<String> {
    let mut all = texts.to_vec();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let length = rng.usize(1..=text.chars().count());
        all.extend([text.chars().take(length).collect::<String>(), text.chars().take(2).collect()]);
    }
    all
}
