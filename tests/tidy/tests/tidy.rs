//! Runs every rule on the tree as it is.

use barque_tests_tidy::rules::RULES;
use barque_tests_tidy::{Breach, packages, text, tree};

#[track_caller]
fn none(breaches: Vec<Breach>) {
    let list: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    assert!(
        list.is_empty(),
        "{} breaches:\n{}",
        list.len(),
        list.join("\n")
    );
}

#[test]
fn code_names_only_what_its_place_allows() {
    let sources = tree::sources(&tree::text_files());
    assert!(sources.len() > 100, "the tree was not found");
    none(RULES.iter().flat_map(|rule| rule.check(&sources)).collect());
}

#[test]
fn the_scope_of_every_rule_exists() {
    let files = tree::text_files();
    for rule in RULES {
        for scope in rule.scope {
            assert!(
                files
                    .iter()
                    .any(|(path, _)| barque_tests_tidy::rules::covers(scope, path)),
                "\"{}\" is about {scope}, where nothing is",
                rule.name
            );
        }
    }
}

#[test]
fn packages_depend_only_on_what_the_design_allows() {
    let packages = tree::packages();
    assert!(packages.len() > 20, "the workspace was not found");
    none(packages::check(&packages));
}

#[test]
fn every_file_says_what_it_is() {
    let sources = tree::sources(&tree::text_files());
    none(
        sources
            .iter()
            .filter_map(text::opens_with_its_purpose)
            .collect(),
    );
}

#[test]
fn no_file_is_too_long() {
    let sources = tree::sources(&tree::text_files());
    none(sources.iter().filter_map(text::is_short_enough).collect());
}

#[test]
fn every_queue_has_a_named_bound() {
    let sources = tree::sources(&tree::text_files());
    none(
        sources
            .iter()
            .flat_map(text::queues_have_named_bounds)
            .collect(),
    );
}

#[test]
fn no_package_host_is_named() {
    let mut hosts = text::registry_hosts();
    // Whatever this machine gets its packages from must not slip in either.
    let cargo_home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let settings = [
        cargo_home.clone().map(|home| home.join("config.toml")),
        cargo_home.map(|home| home.join("config")),
        Some("/etc/apt/sources.list".into()),
        Some("/etc/pip.conf".into()),
    ];
    for path in settings.into_iter().flatten() {
        hosts.extend(text::hosts_in_settings(
            &std::fs::read_to_string(path).unwrap_or_default(),
        ));
    }
    let files = tree::text_files();
    let files = files.iter().filter(|(path, _)| path != "Cargo.lock");
    none(
        files
            .flat_map(|(path, text)| text::names_no_host(path, text, &hosts))
            .collect(),
    );
}

#[test]
fn no_path_of_one_machine_is_named() {
    let sources = tree::sources(&tree::text_files());
    none(
        sources
            .iter()
            .flat_map(text::names_no_scratch_path)
            .collect(),
    );
}
