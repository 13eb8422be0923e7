//! Writes made-up events as Docker 28.5.2 writes them, the same each time: `generate N [--churn]` to standard output.
//!
//! A host with 140 containers at a time, some 2,000 in all in 30 days, 10 to 12 Compose labels each: 75 % are health
//! checks (three events each), 15 % the life of containers, 10 % networks, volumes and images. `--churn`: containers
//! that live for a dozen events each.

use std::io::{BufWriter, Write, stdout};

use fastrand::Rng;

const RUNNING: usize = 140;
const IN_ALL: u64 = 2_000;
const BEGIN: u64 = 1_790_000_000_000_000_000;
const DAYS_30: u64 = 30 * 86_400 * 1_000_000_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number: u64 = words.first().and_then(|n| n.parse().ok()).expect("generate N [--churn]");
    let churn = words.iter().any(|word| word == "--churn");
    let mut world = World::new(number);
    if churn {
        world.churn();
    } else {
        world.live();
    }
    world.out.flush().expect("standard output takes it");
}

struct Container {
    id: String,
    name: String,
    service: usize,
    labels: String,
    later_labels: String,
}

struct Service {
    project: String,
    name: String,
    image: String,
    check: String,
    labels: (String, String),
}

struct World {
    rng: Rng,
    out: BufWriter<std::io::Stdout>,
    left: u64,
    time: u64,
    step: u64,
    services: Vec<Service>,
    networks: Vec<(String, String)>,
    made: u64,
}

impl World {
    fn new(number: u64) -> World {
        let mut rng = Rng::with_seed(28_05_02);
        let services = (0..40).map(|n| service(&mut rng, n)).collect();
        let networks = (0..8).map(|n| (hex(&mut rng), format!("project{n}_default"))).collect();
        let out = BufWriter::with_capacity(1 << 20, stdout());
        World { rng, out, left: number, time: BEGIN, step: DAYS_30 / number.max(1), services, networks, made: 0 }
    }

    fn live(&mut self) {
        let mut running: Vec<Container> = (0..RUNNING).map(|_| self.container()).collect();
        let replace_every = (self.left / IN_ALL).max(1);
        let mut next_replaced = self.left;
        while self.left > 0 {
            if self.left <= next_replaced {
                next_replaced = self.left.saturating_sub(replace_every);
                let at = self.rng.usize(..running.len());
                self.end(&running[at]);
                running[at] = self.container();
                self.begin(&running[at]);
                continue;
            }
            let container = &running[self.rng.usize(..running.len())];
            // In groups: three events a check, five a restart, two a network or volume.
            match self.rng.u32(..100) {
                0..83 => self.check(container),
                83..92 => self.restart(container),
                _ => self.beside(container),
            }
        }
    }

    fn churn(&mut self) {
        while self.left > 0 {
            let container = self.container();
            self.begin(&container);
            self.check(&container);
            self.end(&container);
        }
    }

    fn container(&mut self) -> Container {
        let at = self.rng.usize(..self.services.len());
        self.made += 1;
        let service = &self.services[at];
        let name = format!("{}-{}-{}", service.project, service.name, self.made);
        let number = self.made % 7 + 1;
        Container {
            id: hex(&mut self.rng),
            labels: format!(
                "{}\"com.docker.compose.container-number\":\"{number}\",{}",
                service.labels.0, service.labels.1
            ),
            later_labels: format!("\"org.opencontainers.image.title\":\"{}\"", service.name),
            name,
            service: at,
        }
    }

    fn begin(&mut self, c: &Container) {
        self.of(c, "create", "", "");
        self.network(c, "connect");
        self.of(c, "attach", "", "");
        self.of(c, "start", "", "");
    }

    fn end(&mut self, c: &Container) {
        self.of(c, "kill", "", ",\"signal\":\"15\"");
        let seconds = self.rng.u32(..100_000);
        self.of(c, "die", &format!(",\"execDuration\":\"{seconds}\",\"exitCode\":\"143\""), "");
        self.network(c, "disconnect");
        self.of(c, "stop", "", "");
        self.of(c, "destroy", "", "");
    }

    fn restart(&mut self, c: &Container) {
        self.of(c, "kill", "", ",\"signal\":\"15\"");
        let (seconds, code) = (self.rng.u32(..100_000), *self.rng.choice(&[0, 1, 137, 143]).expect("one of them"));
        self.of(c, "die", &format!(",\"execDuration\":\"{seconds}\",\"exitCode\":\"{code}\""), "");
        self.of(c, "stop", "", "");
        self.of(c, "start", "", "");
        self.of(c, "restart", "", "");
    }

    fn check(&mut self, c: &Container) {
        let check = self.services[c.service].check.clone();
        let exec = hex(&mut self.rng);
        let exec_id = format!(",\"execID\":\"{exec}\"");
        self.of(c, &format!("exec_create: {check}"), &exec_id, "");
        self.of(c, &format!("exec_start: {check}"), &exec_id, "");
        let code = u32::from(self.rng.u32(..200) == 0);
        self.of(c, "exec_die", &format!(",\"execDuration\":\"0\",\"execID\":\"{exec}\",\"exitCode\":\"{code}\""), "");
    }

    fn beside(&mut self, c: &Container) {
        match self.rng.u32(..3) {
            0 => {
                self.network(c, "disconnect");
                self.network(c, "connect");
            }
            1 => {
                let volume = format!("{}_data", self.services[c.service].project);
                for action in ["mount", "unmount"] {
                    let mount = if action == "mount" { ",\"propagation\":\"\",\"read/write\":\"true\"" } else { "" };
                    let destination = if action == "mount" { ",\"destination\":\"/data\"" } else { "" };
                    let attributes = format!("\"container\":\"{}\"{destination},\"driver\":\"local\"{mount}", c.id);
                    self.other("volume", action, &volume, &attributes);
                }
            }
            _ => {
                let image = self.services[c.service].image.clone();
                let attributes = format!("\"maintainer\":\"team@example.com\",\"name\":\"{image}\"");
                self.write(&format!(r#"{{"status":"pull","id":"{image}","Type":"image","Action":"pull","Actor":{{"ID":"{image}","Attributes":{{{attributes}}}}}"#));
            }
        }
    }

    fn network(&mut self, c: &Container, action: &str) {
        let (id, name) = self.networks[c.service % 8].clone();
        let attributes = format!("\"container\":\"{}\",\"name\":\"{name}\",\"type\":\"bridge\"", c.id);
        self.other("network", action, &id, &attributes);
    }

    fn other(&mut self, kind: &str, action: &str, id: &str, attributes: &str) {
        self.write(&format!(
            r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}}}}}"#
        ));
    }

    /// An event of a container; some attributes stand between its labels, some at the end.
    fn of(&mut self, c: &Container, action: &str, between: &str, last: &str) {
        let Container { id, name, labels, later_labels, .. } = c;
        let image = self.services[c.service].image.clone();
        let action = action.replace('&', "\\u0026");
        self.write(&format!(
            r#"{{"status":"{action}","id":"{id}","from":"{image}","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{labels}{between},"image":"{image}","name":"{name}",{later_labels}{last}}}}}"#
        ));
    }

    fn write(&mut self, head: &str) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        self.time += self.rng.u64(1..self.step.max(1) * 2);
        let seconds = self.time / 1_000_000_000;
        writeln!(self.out, r#"{head},"scope":"local","time":{seconds},"timeNano":{}}}"#, self.time)
            .expect("standard output takes it");
    }
}

fn service(rng: &mut Rng, n: usize) -> Service {
    let (project, name) = (format!("project{}", n % 8), format!("service{n}"));
    let image = format!("registry.example.com/{project}/{name}:1.{n}");
    let (hash, digest) = (hex(rng), hex(rng));
    let before = format!("\"com.docker.compose.config-hash\":\"{hash}\",");
    let more =
        if n.is_multiple_of(2) { "\"com.example.team\":\"platform\",\"com.example.tier\":\"backend\"," } else { "" };
    let after = format!(
        "\"com.docker.compose.depends_on\":\"\",\"com.docker.compose.image\":\"sha256:{digest}\",\
         \"com.docker.compose.oneoff\":\"False\",\"com.docker.compose.project\":\"{project}\",\
         \"com.docker.compose.project.config_files\":\"/srv/{project}/compose.yaml\",\
         \"com.docker.compose.project.working_dir\":\"/srv/{project}\",\"com.docker.compose.service\":\"{name}\",\
         \"com.docker.compose.version\":\"2.40.3\",{more}\"desktop.docker.io/ports.scheme\":\"v2\""
    );
    let check = format!("/bin/sh -c curl -fsS http://localhost:80{n:02}/healthz || exit 1");
    Service { project, name, image, check, labels: (before, after) }
}

fn hex(rng: &mut Rng) -> String {
    (0..4).map(|_| format!("{:016x}", rng.u64(..))).collect()
}
