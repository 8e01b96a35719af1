//! Pages of the documentation that are followed as they stand there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::text;

/// A page in Markdown.
pub struct Page {
    text: String,
}

/// What came of the commands of one block.
#[derive(Debug)]
pub struct Step {
    pub commands: String,
    /// Both streams, and those of programs in the background.
    pub printed: String,
    pub status: i32,
    /// What the page says that is printed: the block of `text` that follows, line by line.
    promised: Vec<String>,
}

impl Step {
    /// Checks that what the page promises was printed; `/srv` on the page is the directory here, and `…` is anything.
    pub fn keeps_its_promise(&self, directory: &Path) {
        let mut printed = self.printed.lines();
        for line in &self.promised {
            let line = line.replace("/srv", &directory.display().to_string());
            assert!(
                printed.any(|found| is_meant(&line, found)),
                "{line:?} is not in {self:#?}"
            );
        }
    }
}

fn is_meant(promised: &str, found: &str) -> bool {
    let mut parts = promised.split('…');
    let Some(mut rest) = found.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || promised.ends_with('…')
}

impl Page {
    /// A file of this repository.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        Self {
            text: std::fs::read_to_string(path).unwrap(),
        }
    }

    /// The part under a heading of the second level.
    pub fn section(&self, heading: &str) -> Self {
        let heading = format!("\n## {heading}\n");
        let section = self.text.split(&heading).nth(1).expect(&heading);
        Self {
            text: section.split("\n## ").next().unwrap().to_owned(),
        }
    }

    /// The same with `old`, which stands in it once, replaced.
    pub fn with(&self, old: &str, new: &str) -> Self {
        assert_eq!(self.text.matches(old).count(), 1, "{old}");
        Self {
            text: self.text.replace(old, new),
        }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Language and content of every block.
    pub fn blocks(&self) -> Vec<(&str, &str)> {
        self.text
            .split("\n```")
            .skip(1)
            .step_by(2)
            .map(|block| block.split_once('\n').unwrap())
            .collect()
    }

    /// Writes the files that have their name in the first line (`# file: NAME`) and runs the blocks of `sh`, in their order, in one
    /// shell. What begins with `# as root` is left out without root's rights, and what begins with `# with PROGRAM` if there is none.
    /// `path` goes before the PATH.
    pub fn follow(&self, directory: &Path, path: &[PathBuf], seconds: u32) -> Vec<Step> {
        // Whoever reads the page has nothing else on these ports. Neither has root, in a network of its own; others take turns.
        static PORTS: Mutex<()> = Mutex::new(());
        let root = is_root();
        let _turn = (!root).then(|| {
            PORTS
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
        });
        let mut script = String::from("trap 'kill $(jobs -p); wait' EXIT\n");
        let mut commands: Vec<(String, Vec<String>)> = Vec::new();
        let mut just_run = false;
        for (language, content) in self.blocks() {
            let first = content.lines().next().unwrap_or_default();
            if let Some((_, name)) = first.split_once(" file: ") {
                let name = name.trim_end_matches(" -->");
                let end = "end of the file";
                script.push_str(&format!("cat > {name} <<'{end}'\n{content}\n{end}\n"));
            } else if language == "sh" && (root || first != "# as root") && is_there(first) {
                script.push_str(&format!("{content}\nprintf '\\036%d\\036' $?\n"));
                commands.push((content.to_owned(), Vec::new()));
                just_run = true;
                continue;
            } else if language == "text"
                && just_run
                && let Some((_, promised)) = commands.last_mut()
            {
                promised.extend(content.lines().map(str::to_owned));
            }
            just_run = false;
        }
        let file = directory.join(".followed");
        std::fs::write(&file, format!("exec 2>&1\n{script}")).unwrap();
        let own = Path::new(env!("CARGO_BIN_EXE_keybound")).parent().unwrap();
        let search = path
            .iter()
            .map(|folder| folder.display().to_string())
            .chain([own.display().to_string(), std::env::var("PATH").unwrap()])
            .chain(["/usr/sbin".to_owned(), "/sbin".to_owned()]);
        let mut followed = Command::new("timeout");
        followed.args(["--kill-after=5", &seconds.to_string()]);
        if root {
            followed.args(ALONE);
            followed.args(["bash", "-c", "ip link set lo up && exec bash -m .followed"]);
        } else {
            followed.args(["bash", "-m", ".followed"]);
        }
        let output = followed
            .current_dir(directory)
            .env("PATH", search.collect::<Vec<_>>().join(":"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = text(&output.stdout);
        let mut parts = printed.split('\x1e');
        let steps: Vec<_> = commands
            .into_iter()
            .map_while(|(commands, promised)| {
                let printed = parts.next()?.to_owned();
                let status = parts.next()?.parse().unwrap();
                Some(Step {
                    commands,
                    printed,
                    status,
                    promised,
                })
            })
            .collect();
        let rest: String = parts.collect();
        assert!(
            output.status.code() != Some(124) && script.matches("\\036%d").count() == steps.len(),
            "{}: after {steps:#?}\n{rest}\n{}",
            output.status,
            text(&output.stderr)
        );
        steps
    }
}

/// The step whose commands have `what` in them.
pub fn step<'a>(steps: &'a [Step], what: &str) -> &'a Step {
    steps
        .iter()
        .find(|step| step.commands.contains(what))
        .unwrap_or_else(|| panic!("no step has {what:?} in it"))
}

/// Whether there is what `# with PROGRAM` asks for: in a long run, for which `tests/run` installs it.
fn is_there(first_line: &str) -> bool {
    let Some(program) = first_line.strip_prefix("# with ") else {
        return true;
    };
    super::count(0, 1) == 1 && Command::new(program).arg("version").output().is_ok()
}

/// Whether this is root, and may give a process a network and processes of its own.
fn is_root() -> bool {
    Command::new(ALONE[0])
        .args(&ALONE[1..])
        .args(["ip", "link", "set", "lo", "up"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// In front of a command: with nothing on the ports, and without anybody left when it ends.
const ALONE: [&str; 6] = [
    "unshare",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];
