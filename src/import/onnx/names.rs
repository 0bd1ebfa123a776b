//! Names of the file as names of a bundle: letters, digits and `_ - . : / @ + # =`, each once.

use std::collections::HashSet;

use crate::limits::NAME_BYTES_MAX;

/// Names given so far.
#[derive(Debug, Default)]
pub struct Names {
    taken: HashSet<String>,
}

/// `text` with every other character replaced, not empty, not too long.
pub fn plain(text: &str) -> String {
    let mut name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.:/@+#=".contains(c) { c } else { '_' }).collect();
    name.truncate(NAME_BYTES_MAX - 16);
    if name.is_empty() { "value".into() } else { name }
}

impl Names {
    /// A name like `text` that was not given yet.
    pub fn fresh(&mut self, text: &str) -> String {
        let name = plain(text);
        if self.taken.insert(name.clone()) {
            return name;
        }
        let mut number = 1_usize;
        loop {
            let other = format!("{name}#{number}");
            if self.taken.insert(other.clone()) {
                return other;
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_unique() {
        let mut names = Names::default();
        assert_eq!(names.fresh("a b"), "a_b");
        assert_eq!(names.fresh("a_b"), "a_b#1");
        assert_eq!(names.fresh(""), "value");
        assert!(names.fresh(&"é".repeat(300)).len() <= NAME_BYTES_MAX);
    }
}
