//! `events` beside real Docker Engines, which `tests/setup/engine.sh` starts: what is recorded is what the engine says, what is
//! asked is answered as the engine answers it, whatever becomes of the recorder or the engine meanwhile.
//!
//! Needs root on Debian bookworm: `cargo test --test engines -- --ignored`. A machine that cannot start an engine fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::support::command::{Folder, Running, eventually, run};
use crate::support::docker::{Engine, Follower, Witness, a_full_session, by_instant, instant, parsed, same_lines};
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
        records_what_curl_takes,
        filters_agree_with_the_engine,
        query_start_shows_exactly_the_containers_run,
        killing_the_recorder_loses_and_doubles_nothing,
        an_engine_restart_is_survived_with_a_gap,
        a_killed_engine_is_survived_with_a_gap,
        a_gap_says_what_became_of_the_containers,
        text_is_what_the_docker_client_prints,
        history_follows_an_engine_to_another_socket,
        health_checks_are_left_out_and_what_people_run_stays,
    ]
}

on_engines! {
    doctor_20 is "20", doctor_newest is "newest";
    [doctor_goes_the_whole_way_of_a_container_and_leaves_nothing, doctor_says_what_is_wrong_with_an_image]
}

on_engines! { under_fire is "newest"; [twenty_kills_of_the_engine_lose_nothing_that_it_gave] }

fn doctor_goes_the_whole_way_of_a_container_and_leaves_nothing(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let exercise = ["doctor", "-H", &engine.host, "--exercise", "busybox"];
    let steps = |ran: &command::Ran| -> Vec<String> {
        let lines = ran.lines().into_iter().filter_map(|line| Some(line.strip_prefix("  ✓ ")?.to_owned()));
        lines.skip_while(|line| !line.starts_with("it lists its containers: ")).collect()
    };
    let ran = run(folder.command(&exercise)).succeeded();
    let alone = steps(&ran);
    assert_eq!(alone[1], "it is recorded into a store of its own for this");
    let way = [
        "a container without a terminal is created: ",
        "it can be inspected",
        "it is started, and ends with 7 as it should",
        "its create, start, die are in the store",
        "its logs are told apart into stdout and stderr",
        "a container with a terminal is created: ",
        "it can be inspected",
        "it is started, and ends with 7 as it should",
        "its create, start, die are in the store",
        "its logs are one raw stream",
        "the container ",
        "the container ",
    ];
    assert!(way.iter().zip(&alone[2..]).all(|(step, said)| said.starts_with(step)), "{}", ran.report());
    assert!(!folder.db().exists(), "the store is not touched");
    assert_eq!(engine.docker(&["ps", "-aq"]), "");

    let recorder = folder.record(&engine.host, &[]);
    folder.eventually("the recorder is connected", || match folder.json(&["status", "--json"]) {
        status if status[0]["sources"][0]["connected"] == true => Ok(()),
        status => Err(status),
    });
    let ran = run(folder.command(&exercise)).succeeded();
    assert_eq!(steps(&ran)[1], format!("a recorder stores its events in {}", folder.db().display()));
    recorder.stop();
    let died = ["query", "-q", "--label", "events.doctor=1", "--action", "die", "--label", "exitCode=7", "--count"];
    assert_eq!(folder.lines(&died), ["4"]);
    assert_eq!(engine.docker(&["ps", "-aq"]), "");
}

fn doctor_says_what_is_wrong_with_an_image(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    std::fs::write(folder.path("empty.tar"), [0; 1024]).expect("a file");
    engine.docker(&["import", &folder.path("empty.tar").display().to_string(), "nothing"]);
    for (image, hint) in [("no-such-image", "`docker pull no-such-image`"), ("nothing", "needs `sh`")] {
        let ran = run(folder.command(&["doctor", "-q", "-H", &engine.host, "--exercise", image])).exited(1);
        let lines = ran.lines();
        assert_eq!(lines.len(), 2, "{}", ran.report());
        assert!(lines[0].starts_with("  ✗ ") && lines[1].contains(hint), "{}", ran.report());
        assert_eq!(engine.docker(&["ps", "-aq"]), "", "{image}");
    }
}

fn records_what_curl_takes(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    // Looking again often, so that what was recorded comes again and again.
    let recorder = folder.record(&engine.host, &["--look-again", "1s"]);
    let curl = engine.follow(&folder);
    a_full_session(&engine);
    records_the_same(&engine, &folder, &curl);
    recorder.stop();

    let name = the_source(&folder)["name"].as_str().expect("a source has a name").to_owned();
    let ours = folder.lines(&["query", "--source", &name]);
    same_lines(&curl.lines(), &ours).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(by_instant(ours.clone()), ours, "query prints by time");
    the_session_was_full(&ours);
    assert_eq!(gaps(&folder), [] as [Value; 0]);
    assert_eq!(folder.lines(&["rejected"]), [] as [&str; 0]);
}

fn filters_agree_with_the_engine(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let recorder = folder.record(&engine.host, &[]);
    a_full_session(&engine);
    records_the_memory(&engine, &folder);
    recorder.stop();
    let memory = engine.memory();
    let end = memory.iter().map(|line| instant(line)).max().expect("there are events") + 10;
    let drawn = Draw::from(&memory).combinations(DRAWN);
    let (mut hits, mut wrong) = (0, Vec::new());
    let chosen: Vec<Combination> = chosen().into_iter().chain(drawn).collect();
    for (at, combination) in chosen.iter().enumerate() {
        let theirs = by_instant(engine.events(&combination.parameters(at % 2 == 0, end)));
        let ours = by_instant(folder.lines(&combination.words(at % 3 == 0).iter().map(|w| &**w).collect::<Vec<_>>()));
        hits += usize::from(!theirs.is_empty());
        if theirs != ours {
            let differs = same_lines(&theirs, &ours).err().unwrap_or_else(|| "another order".into());
            wrong.push(format!("{combination:?}: {} and {} lines: {differs}", theirs.len(), ours.len()));
        }
    }
    assert_eq!(engine.memory(), memory, "nothing happened meanwhile");
    let count = chosen.len();
    tell(&format!("{count} combinations of filters compared, {hits} with hits, over {} events", memory.len()));
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(hits >= count / 3 && count - hits >= 20, "{hits} of {count} have hits: one side is hardly tried");
}

fn query_start_shows_exactly_the_containers_run(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let recorder = folder.record(&engine.host, &[]);
    let mut expected = Vec::new();
    for name in ["one", "two", "three"] {
        expected.push(engine.container(&["--name", name]));
        engine.docker(&["exec", name, "echo", "start"]);
        engine.docker(&["create", "--name", &format!("{name}-not-started"), "busybox"]);
    }
    engine.docker(&["rm", "-f", "two"]);
    let words = ["query", "--type", "container", "--action", "start"];
    folder.eventually("the containers run are shown", || {
        let started = actor_ids(&folder.lines(&words));
        if started == expected { Ok(()) } else { Err(format!("{started:?} instead of {expected:?}")) }
    });
    recorder.stop();
    assert_eq!(actor_ids(&folder.lines(&words)), expected);
}

fn killing_the_recorder_loses_and_doubles_nothing(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let curl = engine.follow(&folder);
    // Without looking again later: what is missed on coming back stays missed.
    let record = || folder.record(&engine.host, &["--look-again", "0"]);
    let mut recorder = record();
    let busy = [engine.keep_busy(), engine.keep_busy()];
    for round in 0..5 {
        // At every other one the recorder has only just begun when it is killed.
        if round % 2 == 0 {
            grows("the record", || folder.lines(&["query"]).len(), 10);
        }
        recorder.kill();
        grows("what happens meanwhile", || curl.lines().len(), 10);
        recorder = record();
    }
    busy.into_iter().for_each(docker::Busy::stop);
    records_the_same(&engine, &folder, &curl);
    recorder.stop();
    same_lines(&curl.lines(), &folder.lines(&["query"])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(gaps(&folder), [] as [Value; 0]);
}

fn an_engine_restart_is_survived_with_a_gap(version: &'static str) {
    an_end_is_survived_with_a_gap(version, Engine::stop);
}

fn a_killed_engine_is_survived_with_a_gap(version: &'static str) {
    an_end_is_survived_with_a_gap(version, Engine::kill);
}

/// The row of `tests/under_fire.rs` that needs a real engine, in the same words: it is killed at random moments while
/// containers come and go. What can be had is what it put on the recorder's connections: a witness between them sees it.
fn twenty_kills_of_the_engine_lose_nothing_that_it_gave(version: &'static str) {
    const ROUNDS: usize = 20;
    let (engine, folder) = (Engine::start(version), Folder::new());
    let witness = Witness::beside(&engine, &folder);
    let recorder = folder.record(&witness.host(), &[]);
    let mut made = BTreeSet::new();
    for round in 0..ROUNDS {
        let busy = engine.keep_busy_however();
        // At any moment: after so many events.
        let enough = fastrand::usize(6..30);
        folder.eventually("something happens", || {
            let now = engine.memory();
            if now.len() >= enough { Ok(()) } else { Err(now.len()) }
        });
        made.extend(engine.memory());
        engine.kill();
        busy.stop();
        engine.start_again(&[]);
        engine.docker(&["run", "--rm", "--name", &format!("after-{round}"), "--network", "none", "busybox", "true"]);
        folder.eventually("what it says then is recorded", || {
            let stored = folder.lines(&["query", "-q"]);
            let missing = engine.memory().into_iter().find(|line| !stored.contains(line));
            missing.map_or(Ok(()), Err)
        });
    }
    made.extend(engine.memory());
    let peak = recorder.peak().expect("the recorder runs").div_ceil(1_000_000);
    recorder.stop();
    let given = witness.events();
    made.extend(given.iter().cloned());

    let stored = folder.lines(&["query", "-q"]);
    let once: BTreeSet<_> = stored.iter().cloned().collect();
    let gaps = gaps(&folder);
    let named = |line: &String| {
        let at = json!(rfc3339(instant(line)));
        let (at, bound) = (at.as_str(), |gap: &Value, key| gap[key].as_str().map(str::to_owned));
        gaps.iter().any(|gap| {
            bound(gap, "from").as_deref() <= at && bound(gap, "to").as_deref().is_none_or(|to| at <= Some(to))
        })
    };
    let lost: Vec<_> = given.difference(&once).collect();
    let unexplained: Vec<_> = made.difference(&once).filter(|line| !named(line)).collect();
    let doubled = stored.len() - once.len();
    // Past the harness, which would keep it to itself.
    let _ = writeln!(
        std::io::stderr(),
        "| SIGKILL and restart of a real engine ({version}) | {ROUNDS} | {} | {} | {} | {} | {doubled} | {} | {} | {peak} MB |",
        made.len(),
        given.union(&once).count(),
        once.len(),
        lost.len(),
        unexplained.len(),
        gaps.len(),
    );
    assert_eq!((lost, doubled, unexplained), (vec![], 0, vec![]));
    assert!(once.is_subset(&made), "nothing is made up");
    assert!(peak < 200, "{peak} MB");
}

fn an_end_is_survived_with_a_gap(version: &'static str, end: fn(&Engine)) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let recorder = folder.record(&engine.host, &[]);
    engine.container(&["--name", "before"]);
    recorded(&folder, &engine.memory());
    let before_the_end = engine.memory();

    end(&engine);
    connected(&folder, &recorder, false);
    let open = folder.eventually("a gap is open", || one_gap(&folder));
    assert_eq!(open["to"], Value::Null, "{open}");
    let before = folder.lines(&["query", "-q"]);
    let last_seen = newest_arrival(&folder);
    assert_eq!(open["from"], rfc3339(last_seen), "{open}");
    assert!(before_the_end.iter().all(|line| before.contains(line)), "what came before the end is there");

    engine.start_again(&[]);
    connected(&folder, &recorder, true);
    engine.docker(&["run", "--rm", "--name", "after", "busybox", "true"]);
    folder.eventually("what came before and after is recorded, once", || {
        let expected = [before.clone(), engine.memory()].concat();
        same_lines(&expected, &folder.lines(&["query", "-q"]))
    });
    let gap = one_gap(&folder).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((&gap["reason"], &gap["from"]), (&json!("engine-restart"), &json!(rfc3339(last_seen))), "{gap}");
    let (to, first_after) = (gap["to"].as_str().expect("the gap is over"), engine.memory()[0].clone());
    assert!(*rfc3339(last_seen) < *to && *to <= *rfc3339(instant(&first_after)), "{gap}, then {first_after}");
    assert_eq!(the_source(&folder)["gaps"], 1);

    recorder.stop();
    // What became of the containers may have been added to its detail.
    let same = |gap: &Value| json!([gap["from"], gap["to"], gap["reason"]]);
    assert_eq!(one_gap(&folder).as_ref().map(same), Ok(same(&gap)));
    let expected = [before, engine.memory()].concat();
    same_lines(&expected, &folder.lines(&["query", "-q"])).unwrap_or_else(|e| panic!("{e}"));
}

fn a_gap_says_what_became_of_the_containers(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let alone = ["--network", "none"];
    let run = |name: &str| engine.container(&[&["--name", name][..], &alone].concat());
    let (web, db, calm) = (run("web"), run("db"), run("calm"));
    let old = engine.docker(&["create", "--name", "old", "busybox"]);
    let recorder = folder.record(&engine.host, &[]);
    recorded(&folder, &engine.memory());
    folder.eventually("the containers are known", || {
        let db = rusqlite::Connection::open(folder.db()).map_err(|e| e.to_string())?;
        db.query_row("SELECT taken_nano FROM snapshot", [], |row| row.get::<_, i64>(0)).map_err(|e| e.to_string())
    });
    recorder.kill();

    engine.docker(&["kill", "web"]);
    engine.docker(&["restart", "-t", "1", "db"]);
    engine.docker(&["rm", "old"]);
    assert_eq!(
        engine
            .docker_however(&["run", "--name", "job", "--network", "none", "busybox", "sh", "-c", "exit 7"])
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
    // This one's life is among what the engine remembers.
    let seen = run("seen");
    let recorder = folder.record(&engine.host, &[]);
    recorded(&folder, &engine.memory());
    let gap = folder.eventually("the gap says it", || {
        let gap = one_gap(&folder)?;
        let says = gap["detail"].as_str().is_some_and(|detail| detail.contains("; meanwhile: "));
        if says { Ok(gap) } else { Err(format!("{gap}\n{}", recorder.log())) }
    });
    recorder.stop();
    assert_eq!(gap["reason"], "overrun");
    let detail = gap["detail"].as_str().expect("a text");
    let time = |name: &str, field: &str| {
        let time = engine.docker(&["inspect", "-f", &format!("{{{{.{field}}}}}"), name]);
        rfc3339(DateTime::parse_from_rfc3339(&time).expect("a time").timestamp_nanos_opt().expect("in range"))
    };
    let called = |name: &str, id: &str| format!("{name} ({})", &id[..12]);
    for expected in [
        format!("{} exited with 137 at {}", called("web", &web), time("web", "State.FinishedAt")),
        format!(
            "{} ended at {} and was started at {}",
            called("db", &db),
            time("db", "State.FinishedAt"),
            time("db", "State.StartedAt")
        ),
        format!(
            "{} came, created {}, was started at {} and exited with 7 at {}",
            called("job", &job),
            time("job", "Created"),
            time("job", "State.StartedAt"),
            time("job", "State.FinishedAt")
        ),
        format!("{} is gone", called("old", &old)),
    ] {
        assert!(detail.contains(&expected), "not in it: {expected}\n{detail}");
    }
    for (name, id) in [("calm", &calm), ("seen", &seen)] {
        assert!(!detail.contains(&called(name, id)), "{detail}");
    }
}

fn health_checks_are_left_out_and_what_people_run_stays(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let alone = ["--network", "none", "--health-interval", "1s", "--health-cmd"];
    let start = |name: &str, words: &[&str]| {
        engine
            .docker(&[&["run", "-d", "--stop-signal", "KILL", "--name", name][..], words, &["sleep", "1000"]].concat())
    };
    let check = "test -d / && echo \"a  b\" é <&>";
    // One that was there before, one that comes later, and one that has it from its image, with a shell of its own.
    let before = start("before", &[&alone[..], &[check, "busybox"]].concat());
    folder.eventually("it is checked", || {
        if engine.memory().iter().any(|line| line.contains("exec_die")) { Ok(()) } else { Err(()) }
    });
    let recorder = folder.record(&engine.host, &[]);
    let (without, db) = (Folder::new(), folder.db());
    let leaving_out = without.record(&engine.host, &["--no-healthchecks"]);
    let later = start("later", &[&alone[..], &["true", "busybox"]].concat());
    let context = folder.path("checked");
    std::fs::create_dir(&context).expect("a folder can be made");
    let lines =
        ["FROM busybox", r#"SHELL ["/bin/busybox", "sh", "-c"]"#, "HEALTHCHECK --interval=1s CMD echo of the image"];
    std::fs::write(context.join("Dockerfile"), lines.join("\n")).expect("a file can be made");
    let mut build = engine.client(&["build", "-t", "checked:1", context.to_str().expect("a path is text")]);
    build.env("DOCKER_BUILDKIT", "0");
    run(build).exited(0);
    let image = start("image", &["--network", "none", "checked:1"]);
    let calm = engine.container(&["--name", "calm", "--network", "none"]);
    for name in ["before", "later", "image", "calm"] {
        engine.docker(&["exec", name, "echo", name]);
    }
    // In another container it is a person's; in the same one nothing in the events tells them apart.
    engine.docker(&["exec", "calm", "/bin/sh", "-c", "true"]);
    engine.docker(&["exec", "later", "/bin/sh", "-c", "true"]);
    let execs = |folder: &Folder, words: &[&str]| -> Vec<(String, String)> {
        let lines = folder.json(&[&["query", "-q", "--type", "container"], words].concat());
        let exec = |line: &Value| {
            let (action, id) = (line["Action"].as_str()?, line["Actor"]["ID"].as_str()?);
            action.starts_with("exec_").then(|| (id.to_owned(), action.to_owned()))
        };
        lines.iter().filter_map(exec).collect()
    };
    folder.eventually("each is checked, again and again", || {
        let all = execs(&folder, &[]);
        let checks = |id: &String| all.iter().filter(|(of, action)| of == id && action == "exec_die").count();
        let counts = [&before, &later, &image].map(checks);
        if counts.iter().all(|count| *count > 3) { Ok(()) } else { Err(counts) }
    });
    recorder.stop();
    leaving_out.stop();
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
    let mut left = execs(&folder, &["--no-healthchecks"]);
    // One that ran when the recorder stopped has no end, and one that ran when it began no beginning.
    left.sort();
    expected.sort();
    assert_eq!(left, expected, "{}", db.display());
    let mut stored = execs(&without, &[]);
    stored.sort();
    assert_eq!(stored, expected);
    let all = execs(&folder, &[]).len();
    let counted = the_source(&without)["healthchecks_left_out"].as_u64().expect("a number") as usize;
    // The two recorders do not stop at the same moment.
    assert!(counted > 30 && counted.abs_diff(all - expected.len()) <= 20, "{counted} of {all}");
    let healthy = |folder: &Folder| folder.lines(&["query", "-q", "--action", "health_status"]).len();
    assert_eq!((healthy(&folder), healthy(&without)), (3, 3));
    for folder in [&folder, &without] {
        folder.run(&["verify", "-q"]).succeeded();
    }
}

fn text_is_what_the_docker_client_prints(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let recorder = folder.record(&engine.host, &[]);
    a_full_session(&engine);
    records_the_memory(&engine, &folder);
    recorder.stop();
    let until = unix_time(instant(engine.memory().last().expect("there are events")));
    for zone in ["UTC", "Asia/Kolkata", "America/St_Johns"] {
        let mut client = engine.client(&["events", "--since", "0", "--until", &until]);
        client.env("TZ", zone);
        let theirs = run(client).succeeded().lines();
        let mut ours = folder.command(&["query", "-q", "--format", "text", "--since", "0", "--until", &until]);
        ours.env("TZ", zone);
        let ours = run(ours).succeeded().lines();
        assert!(theirs.len() > 100, "{} lines", theirs.len());
        same_lines(&theirs, &ours).unwrap_or_else(|e| panic!("in {zone}: {e}"));
    }
}

fn history_follows_an_engine_to_another_socket(version: &'static str) {
    let (engine, folder) = (Engine::start(version), Folder::new());
    let recorder = folder.record(&engine.host, &[]);
    engine.container(&["--name", "here"]);
    recorded(&folder, &engine.memory());
    recorder.stop();
    let here = the_source(&folder);
    assert_eq!(here["host"], engine.host);
    engine.stop();

    let other = format!("unix://{}", folder.path("other.sock").display());
    engine.start_again(&["-H", &other]);
    let recorder = folder.record(&other, &[]);
    let there = engine.container(&["--name", "there"]);
    recorded(&folder, &engine.memory());
    recorder.stop();

    let source = the_source(&folder);
    assert_eq!(source["host"], other);
    assert_eq!((&source["engine_id"], &source["name"]), (&here["engine_id"], &here["name"]));
    let name = source["name"].as_str().expect("a source has a name");
    let started = folder.lines(&["query", "-q", "--source", name, "--action", "start"]);
    assert_eq!(actor_ids(&started).last(), Some(&there));
    assert_eq!(actor_ids(&started).len(), 2, "{started:?}");
    assert_eq!(one_gap(&folder).unwrap_or_else(|e| panic!("{e}"))["reason"], "engine-restart");
}

/// Waits until the record holds just what curl took, when all has come to both.
fn records_the_same(engine: &Engine, folder: &Folder, curl: &Follower) {
    engine.docker(&["volume", "create", "the-end"]);
    folder.eventually("the record is what curl took", || {
        let theirs = curl.lines();
        if !theirs.iter().any(|line| parsed(line)["Actor"]["ID"] == "the-end") {
            return Err("curl has not come to the end".to_owned());
        }
        same_lines(&theirs, &folder.lines(&["query"]))
    });
}

/// Waits until the record holds just what the engine remembers.
fn records_the_memory(engine: &Engine, folder: &Folder) {
    engine.docker(&["volume", "create", "the-end"]);
    folder.eventually("the record is what the engine remembers", || {
        let memory = engine.memory();
        assert!(memory.len() < 256, "the session is too long for the engine's memory");
        same_lines(&memory, &folder.lines(&["query"]))
    });
}

/// Waits until these lines are recorded.
fn recorded(folder: &Folder, lines: &[String]) {
    folder.eventually("all is recorded", || {
        let ours = folder.lines(&["query", "-q"]);
        let missing: Vec<&String> = lines.iter().filter(|line| !ours.contains(line)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing: {missing:?}")) }
    });
}

/// Waits until something has grown by so much.
fn grows(what: &str, size: impl Fn() -> usize, by: usize) {
    let before = size();
    eventually(&format!("{what} grows by {by}"), || {
        let now = size();
        if now >= before + by { Ok(()) } else { Err(format!("from {before} to {now}")) }
    });
}

/// Waits until `status` says of the only source that it is connected or not, and of the recorder that it lives on.
fn connected(folder: &Folder, recorder: &Running, expected: bool) {
    folder.eventually(&format!("connected is {expected}"), || {
        let status = status(folder);
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

fn status(folder: &Folder) -> Value {
    folder.json(&["status", "--json"]).remove(0)
}

/// What `status` says of the source, of which there must be one.
fn the_source(folder: &Folder) -> Value {
    let status = status(folder);
    assert_eq!(status["sources"].as_array().map(Vec::len), Some(1), "{status}");
    status["sources"][0].clone()
}

/// The gaps, but for the one at the first contact, which must be there.
fn gaps(folder: &Folder) -> Vec<Value> {
    let mut gaps = folder.json(&["gaps"]);
    assert_eq!(gaps[0]["reason"], "first-contact", "{gaps:?}");
    gaps.remove(0);
    gaps
}

fn one_gap(folder: &Folder) -> Result<Value, String> {
    let mut gaps = gaps(folder);
    if gaps.len() == 1 { Ok(gaps.remove(0)) } else { Err(format!("not one gap: {gaps:?}")) }
}

/// The instant of the event that was stored last.
fn newest_arrival(folder: &Folder) -> i64 {
    let stored = folder.json(&["query", "-q", "--envelope"]);
    let last = stored.iter().max_by_key(|stored| stored["seq"].as_i64()).expect("something is stored");
    last["event"]["timeNano"].as_i64().expect("an event has an instant")
}

fn actor_ids(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| parsed(line)["Actor"]["ID"].as_str().expect("an event has an actor").to_owned()).collect()
}

fn rfc3339(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string()
}

/// Seconds since the epoch, to the nanosecond, as the engine and the docker client take them.
fn unix_time(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// So that a session in which the containers did not do what they should proves nothing by chance.
fn the_session_was_full(lines: &[String]) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for event in lines.iter().map(|line| parsed(line)) {
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
    tell(&format!("{} events of {} kinds, {oom} oom", lines.len(), kinds.len()));
}

/// Says something also when the test passes, whose output is not shown.
fn tell(text: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: {text}");
}

/// How many combinations are drawn, and where the drawing begins; the events drawn from differ in their IDs alone.
const DRAWN: usize = 250;
const SEED: u64 = 256;

/// The keys whose values are the beginning of an ID or a name.
const PREFIX_KEYS: [&str; 9] =
    ["container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config"];

/// What both are asked for.
#[derive(Debug)]
struct Combination {
    filters: Vec<(&'static str, String)>,
    since: Option<i64>,
    until: Option<i64>,
}

impl Combination {
    /// As parameters of a request, in one of the two forms that filters have there.
    /// What goes to the `end` of all events goes there in so many words: without, the answer would stay open.
    fn parameters(&self, as_lists: bool, end: i64) -> Vec<(&'static str, String)> {
        let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        self.filters.iter().for_each(|(key, value)| by_key.entry(key).or_default().push(value));
        let maps = by_key.iter().map(|(key, values)| (*key, values.iter().map(|value| (*value, true)).collect()));
        let maps: BTreeMap<&str, BTreeMap<&str, bool>> = maps.collect();
        let filters = if as_lists { json!(by_key) } else { json!(maps) };
        let since = self.since.map_or_else(|| "0".into(), unix_time);
        vec![("since", since), ("until", unix_time(self.until.unwrap_or(end))), ("filters", filters.to_string())]
    }

    /// As words of the command line, with `--type` for `--filter type=` and the like where there is such a form.
    fn words(&self, short: bool) -> Vec<String> {
        let mut words = vec!["query".to_owned(), "-q".into()];
        for (flag, instant) in [("--since", self.since), ("--until", self.until)] {
            words.extend(instant.iter().flat_map(|instant| [flag.to_owned(), unix_time(*instant)]));
        }
        for (key, value) in &self.filters {
            match *key {
                "event" if short => words.push(format!("--action={value}")),
                "type" | "container" | "image" | "label" | "network" | "volume" | "scope" if short => {
                    words.push(format!("--{key}={value}"));
                }
                _ => words.extend(["--filter".into(), format!("{key}={value}")]),
            }
        }
        words
    }
}

/// The quirks one by one, whatever is drawn: on what the session surely left.
fn chosen() -> Vec<Combination> {
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

/// Draws combinations from the events that there are, and spoils some.
struct Draw {
    rng: Rng,
    events: Vec<Value>,
    instants: Vec<i64>,
}

impl Draw {
    /// From events in the engine's order.
    fn from(memory: &[String]) -> Draw {
        Draw {
            rng: Rng::with_seed(SEED),
            events: memory.iter().map(|line| parsed(line)).collect(),
            instants: memory.iter().map(|line| instant(line)).collect(),
        }
    }

    fn combinations(mut self, count: usize) -> Vec<Combination> {
        (0..count).map(|_| self.combination()).collect()
    }

    /// Most values fit one event, so that keys which must all hold can.
    fn combination(&mut self) -> Combination {
        let fitting = self.rng.usize(..self.events.len());
        let mut filters = Vec::new();
        for _ in 0..self.rng.choice([0, 1, 1, 1, 2, 2, 3]).expect("a choice") {
            let key = self.key();
            for _ in 0..self.rng.choice([1, 1, 1, 2, 3]).expect("a choice") {
                filters.push((key, self.value(key, fitting)));
            }
        }
        let since = if self.rng.u8(..3) == 0 { self.around_an_instant(fitting) } else { None };
        let since = since.filter(|since| !self.hides_from(*since));
        let until = if self.rng.u8(..3) == 0 { self.around_an_instant(fitting) } else { None };
        Combination { filters, since, until: until.filter(|until| since.is_none_or(|since| since <= *until)) }
    }

    fn key(&mut self) -> &'static str {
        let one = ["type", "event", "event", "scope", "image", "image", "label", "label", "container", "container"];
        let all = [&one[..], &PREFIX_KEYS].concat();
        self.rng.choice(all).expect("a choice")
    }

    fn value(&mut self, key: &str, fitting: usize) -> String {
        let event = if self.rng.u8(..4) == 0 { self.rng.usize(..self.events.len()) } else { fitting };
        let fits = self.values_of(key, event);
        let value = self.rng.choice(fits).expect("every event has a value for every key");
        let value = if self.rng.u8(..8) == 0 { self.spoilt(&value) } else { value };
        value.trim().to_owned() // The command line does so too.
    }

    /// Values that this event has, or might be looked for by.
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
                let each = attributes.iter().flat_map(|(key, value)| [key.clone(), format!("{key}={}", text(value))]);
                let each: Vec<String> = each.collect();
                if each.is_empty() { vec!["none".into()] } else { each }
            }
            _ => beginnings(&[id, attribute("name")], &mut self.rng),
        }
    }

    fn spoilt(&mut self, value: &str) -> String {
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

    /// An instant at which something happened, or a nanosecond beside it.
    fn around_an_instant(&mut self, fitting: usize) -> Option<i64> {
        let at = if self.rng.bool() { fitting } else { self.rng.usize(..self.instants.len()) };
        Some(self.instants[at] + self.rng.i64(-1..=1))
    }

    /// Whether the engine hides events after `since`: it looks through its memory backwards, as far as the first that
    /// is older, and what came concurrently can stand before that one and be younger.
    fn hides_from(&self, since: i64) -> bool {
        let older = self.instants.iter().rposition(|instant| *instant < since).unwrap_or(0);
        self.instants[..older].iter().any(|instant| *instant >= since)
    }
}

/// What an image may be called: as it stands, without tag or digest, in full, with a tag.
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

/// The texts, and what some of them begin with.
fn beginnings(texts: &[String], rng: &mut Rng) -> Vec<String> {
    let mut all = texts.to_vec();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let length = rng.usize(1..=text.chars().count());
        all.extend([text.chars().take(length).collect::<String>(), text.chars().take(2).collect()]);
    }
    all
}
