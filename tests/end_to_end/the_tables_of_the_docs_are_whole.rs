//! Tables in the documentation that have to name everything there is.

use std::collections::BTreeSet;
use std::path::Path;

use gateway::Code;

use crate::harness::page::Page;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The words in backquotes in the first cells of a section's table, in their order.
fn first_cells(section: &str) -> Vec<String> {
    Page::read("docs/refusals.md")
        .section(section)
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|row| {
            let cell = format!("`{}", row.split(" | ").next().unwrap());
            let words = cell.split('`').skip(1).step_by(2);
            words.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_code_of_the_gateway_is_explained() {
    let codes: BTreeSet<_> = Code::ALL
        .iter()
        .map(|code| code.as_str().to_owned())
        .collect();
    let listed = first_cells("By the gateway");
    let set: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(set.len(), listed.len(), "a code is explained twice");
    assert_eq!(set, codes);
}

/// Those of enrollment are no enum: whatever is written as a code in these files has to be there.
#[test]
fn every_code_of_enrollment_is_explained() {
    let listed: BTreeSet<_> = first_cells("By enrollment").into_iter().collect();
    let mut found = BTreeSet::new();
    for file in ["ca/src/pure/enroll.rs", "ca/src/issuance.rs"] {
        let text = read(file);
        let codes = text.split("pub fn code(").nth(1).unwrap();
        let codes = codes.split("\n    }\n").next().unwrap();
        let strings = codes.split('"').skip(1).step_by(2);
        found.extend(strings.map(str::to_owned));
    }
    for file in ["ca/src/est/mod.rs", "ca/src/est/refused.rs"] {
        let text = read(file);
        for call in text
            .split("Refused::new(")
            .chain(text.split("Self::new("))
            .skip(1)
        {
            let code = call.split('"').nth(1).unwrap_or_default();
            if call
                .trim_start()
                .starts_with(|digit: char| digit.is_ascii_digit())
            {
                found.insert(code.to_owned());
            }
        }
    }
    // What only labelling can be refused for.
    found.remove("bad-request");
    assert!(found.len() > 25, "{found:?}");
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_the_pages_link_to_is_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![docs.join("README.md")];
    for entry in std::fs::read_dir(docs.join("docs")).unwrap() {
        pages.push(entry.unwrap().path());
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let found = page.parent().unwrap().join(target);
            assert!(found.exists(), "{} links to {target}", page.display());
        }
    }
    // Every page can be found from the README.
    let readme = read("README.md");
    for entry in std::fs::read_dir(docs.join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            readme.contains(&format!("docs/{name}")),
            "README.md does not link to {name}"
        );
    }
}
