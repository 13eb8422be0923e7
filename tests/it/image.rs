//! Both Dockerfiles build the same image.

use std::path::{Path, PathBuf};

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/docker").join(name)
}

#[test]
fn both_images_are_the_same_but_for_where_they_come_from() {
    let last = |name: &str| {
        let text = std::fs::read_to_string(contrib(name)).unwrap();
        let stage = text.split("FROM scratch\n").nth(1).expect("a stage from nothing").to_owned();
        stage.lines().filter(|line| !line.starts_with("COPY")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(last("Dockerfile"), last("binary.Dockerfile"));
}
