//! Both Dockerfiles build the same image.

use crate::support::watching::contrib;

#[test]
fn the_final_stages_differ_only_in_what_they_copy() {
    let final_stage = |name: &str| {
        let text = std::fs::read_to_string(contrib("docker").join(name)).unwrap();
        let stage = text.split("FROM scratch\n").nth(1).expect("the last stage is FROM scratch").to_owned();
        stage.lines().filter(|line| !line.starts_with("COPY")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(final_stage("Dockerfile"), final_stage("binary.Dockerfile"));
}
