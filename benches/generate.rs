//! Generates events in the form of Docker 28.5.2, the same in each run: `generate N [--churn]` writes N events to
//! standard output.
//!
//! The host runs 140 containers at a time, about 2,000 in total in 30 days, with 10 to 12 Compose labels each. Of the
//! events, 75 % are health checks (three events each), 15 % the lifecycle of containers, and 10 % networks, volumes and
//! images. With `--churn`, each container exists for a dozen events.

use std::io::{BufWriter, Write, stdout};

use fastrand::Rng;

const RUNNING_CONTAINERS: usize = 140;
const TOTAL_CONTAINERS: u64 = 2_000;
const START_NANOS: u64 = 1_790_000_000_000_000_000;
const PERIOD_NANOS: u64 = 30 * 86_400 * 1_000_000_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let event_count: u64 = args.first().and_then(|n| n.parse().ok()).expect("usage: generate N [--churn]");
    let churn = args.iter().any(|arg| arg == "--churn");
    let mut generator = Generator::new(event_count);
    if churn {
        generator.run_churn();
    } else {
        generator.run_steady();
    }
    generator.out.flush().expect("standard output is writable");
}

struct Container {
    id: String,
    name: String,
    service: usize,
    labels: String,
    trailing_labels: String,
}

struct Service {
    project: String,
    name: String,
    image: String,
    health_command: String,
    labels: (String, String),
}

struct Generator {
    rng: Rng,
    out: BufWriter<std::io::Stdout>,
    remaining: u64,
    time: u64,
    interval_nanos: u64,
    services: Vec<Service>,
    networks: Vec<(String, String)>,
    container_count: u64,
}

impl Generator {
    fn new(event_count: u64) -> Generator {
        let mut rng = Rng::with_seed(28_05_02);
        let services = (0..40).map(|n| new_service(&mut rng, n)).collect();
        let networks = (0..8).map(|n| (random_hex_id(&mut rng), format!("project{n}_default"))).collect();
        let out = BufWriter::with_capacity(1 << 20, stdout());
        Generator {
            rng,
            out,
            remaining: event_count,
            time: START_NANOS,
            interval_nanos: PERIOD_NANOS / event_count.max(1),
            services,
            networks,
            container_count: 0,
        }
    }

    fn run_steady(&mut self) {
        let mut running: Vec<Container> = (0..RUNNING_CONTAINERS).map(|_| self.new_container()).collect();
        let replace_every = (self.remaining / TOTAL_CONTAINERS).max(1);
        let mut next_replacement = self.remaining;
        while self.remaining > 0 {
            if self.remaining <= next_replacement {
                next_replacement = self.remaining.saturating_sub(replace_every);
                let index = self.rng.usize(..running.len());
                self.emit_end(&running[index]);
                running[index] = self.new_container();
                self.emit_start(&running[index]);
                continue;
            }
            let container = &running[self.rng.usize(..running.len())];
            // Groups of events: three for a check, five for a restart, two for a network or volume.
            match self.rng.u32(..100) {
                0..83 => self.emit_health_check(container),
                83..92 => self.emit_restart(container),
                _ => self.emit_random_resource(container),
            }
        }
    }

    fn run_churn(&mut self) {
        while self.remaining > 0 {
            let container = self.new_container();
            self.emit_start(&container);
            self.emit_health_check(&container);
            self.emit_end(&container);
        }
    }

    fn new_container(&mut self) -> Container {
        let index = self.rng.usize(..self.services.len());
        self.container_count += 1;
        let service = &self.services[index];
        let name = format!("{}-{}-{}", service.project, service.name, self.container_count);
        let number = self.container_count % 7 + 1;
        Container {
            id: random_hex_id(&mut self.rng),
            labels: format!(
                "{}\"com.docker.compose.container-number\":\"{number}\",{}",
                service.labels.0, service.labels.1
            ),
            trailing_labels: format!("\"org.opencontainers.image.title\":\"{}\"", service.name),
            name,
            service: index,
        }
    }

    fn emit_start(&mut self, c: &Container) {
        self.emit_container_event(c, "create", "", "");
        self.emit_network_event(c, "connect");
        self.emit_container_event(c, "attach", "", "");
        self.emit_container_event(c, "start", "", "");
    }

    fn emit_end(&mut self, c: &Container) {
        self.emit_container_event(c, "kill", "", ",\"signal\":\"15\"");
        let seconds = self.rng.u32(..100_000);
        self.emit_container_event(c, "die", &format!(",\"execDuration\":\"{seconds}\",\"exitCode\":\"143\""), "");
        self.emit_network_event(c, "disconnect");
        self.emit_container_event(c, "stop", "", "");
        self.emit_container_event(c, "destroy", "", "");
    }

    fn emit_restart(&mut self, c: &Container) {
        self.emit_container_event(c, "kill", "", ",\"signal\":\"15\"");
        let (seconds, code) =
            (self.rng.u32(..100_000), *self.rng.choice(&[0, 1, 137, 143]).expect("the list is not empty"));
        self.emit_container_event(c, "die", &format!(",\"execDuration\":\"{seconds}\",\"exitCode\":\"{code}\""), "");
        self.emit_container_event(c, "stop", "", "");
        self.emit_container_event(c, "start", "", "");
        self.emit_container_event(c, "restart", "", "");
    }

    fn emit_health_check(&mut self, c: &Container) {
        let command = self.services[c.service].health_command.clone();
        let exec = random_hex_id(&mut self.rng);
        let exec_id = format!(",\"execID\":\"{exec}\"");
        self.emit_container_event(c, &format!("exec_create: {command}"), &exec_id, "");
        self.emit_container_event(c, &format!("exec_start: {command}"), &exec_id, "");
        let code = u32::from(self.rng.u32(..200) == 0);
        self.emit_container_event(
            c,
            "exec_die",
            &format!(",\"execDuration\":\"0\",\"execID\":\"{exec}\",\"exitCode\":\"{code}\""),
            "",
        );
    }

    fn emit_random_resource(&mut self, c: &Container) {
        match self.rng.u32(..3) {
            0 => {
                self.emit_network_event(c, "disconnect");
                self.emit_network_event(c, "connect");
            }
            1 => {
                let volume = format!("{}_data", self.services[c.service].project);
                for action in ["mount", "unmount"] {
                    let mount = if action == "mount" { ",\"propagation\":\"\",\"read/write\":\"true\"" } else { "" };
                    let destination = if action == "mount" { ",\"destination\":\"/data\"" } else { "" };
                    let attributes = format!("\"container\":\"{}\"{destination},\"driver\":\"local\"{mount}", c.id);
                    self.emit_resource_event("volume", action, &volume, &attributes);
                }
            }
            _ => {
                let image = self.services[c.service].image.clone();
                let attributes = format!("\"maintainer\":\"team@example.com\",\"name\":\"{image}\"");
                self.write_event(&format!(r#"{{"status":"pull","id":"{image}","Type":"image","Action":"pull","Actor":{{"ID":"{image}","Attributes":{{{attributes}}}}}"#));
            }
        }
    }

    fn emit_network_event(&mut self, c: &Container, action: &str) {
        let (id, name) = self.networks[c.service % 8].clone();
        let attributes = format!("\"container\":\"{}\",\"name\":\"{name}\",\"type\":\"bridge\"", c.id);
        self.emit_resource_event("network", action, &id, &attributes);
    }

    fn emit_resource_event(&mut self, kind: &str, action: &str, id: &str, attributes: &str) {
        self.write_event(&format!(
            r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}}}}}"#
        ));
    }

    /// Writes an event of a container, with attributes between its labels and after them.
    fn emit_container_event(&mut self, c: &Container, action: &str, between: &str, last: &str) {
        let Container { id, name, labels, trailing_labels: later_labels, .. } = c;
        let image = self.services[c.service].image.clone();
        let action = action.replace('&', "\\u0026");
        self.write_event(&format!(
            r#"{{"status":"{action}","id":"{id}","from":"{image}","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{labels}{between},"image":"{image}","name":"{name}",{later_labels}{last}}}}}"#
        ));
    }

    fn write_event(&mut self, head: &str) {
        if self.remaining == 0 {
            return;
        }
        self.remaining -= 1;
        self.time += self.rng.u64(1..self.interval_nanos.max(1) * 2);
        let seconds = self.time / 1_000_000_000;
        writeln!(self.out, r#"{head},"scope":"local","time":{seconds},"timeNano":{}}}"#, self.time)
            .expect("standard output is writable");
    }
}

fn new_service(rng: &mut Rng, n: usize) -> Service {
    let (project, name) = (format!("project{}", n % 8), format!("service{n}"));
    let image = format!("registry.example.com/{project}/{name}:1.{n}");
    let (hash, digest) = (random_hex_id(rng), random_hex_id(rng));
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
    let health_command = format!("/bin/sh -c curl -fsS http://localhost:80{n:02}/healthz || exit 1");
    Service { project, name, image, health_command, labels: (before, after) }
}

fn random_hex_id(rng: &mut Rng) -> String {
    (0..4).map(|_| format!("{:016x}", rng.u64(..))).collect()
}
