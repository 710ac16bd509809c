//! The calculator's answer to each line of standard input, an empty line where it has none; for
//! scripts/parity/check_calculator.py.

fn main() -> std::io::Result<()> {
    for line in std::io::stdin().lines() {
        println!("{}", nanochat::conversation::calculator::calculate(&line?).unwrap_or_default());
    }
    Ok(())
}
