//! Formats counts in sentences: 1 file, 2 files.

/// Returns a number with a noun, which is plural unless the number is 1.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {}", plural(n, noun))
}

/// Returns the noun in the form that follows the number `n`.
pub fn plural(n: usize, noun: &str) -> String {
    match n {
        1 => noun.into(),
        _ if noun.ends_with("ch") => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_is_singular() {
        let files = [0, 1, 2].map(|n| counted(n, "file"));
        assert_eq!(files, ["0 files", "1 file", "2 files"]);
        assert_eq!(counted(2, "micro-batch"), "2 micro-batches");
    }
}
