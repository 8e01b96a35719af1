//! When everything is prepared, whoever measures is told, and says when to begin.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// Prints a line and waits for one.
pub(crate) async fn told_to_go_on(line: &str) -> anyhow::Result<()> {
    say(line).await?;
    let mut answer = String::new();
    BufReader::with_capacity(1, tokio::io::stdin())
        .read_line(&mut answer)
        .await?;
    Ok(())
}

/// Prints a line.
pub(crate) async fn say(line: &str) -> anyhow::Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(format!("{line}\n").as_bytes()).await?;
    output.flush().await?;
    Ok(())
}

/// Waits until standard input ends: whoever started this has ended, or wants it to.
pub(crate) async fn input_ended() {
    let mut input = tokio::io::stdin();
    let mut bytes = [0; 64];
    while matches!(input.read(&mut bytes).await, Ok(length) if length > 0) {}
}
