//! Aligned columns for people.

use std::fmt;

/// Rows of text under a head; numbers to the right.
#[derive(Clone, Debug, Default)]
pub struct TextTable {
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// A table with these columns.
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> TextTable {
        TextTable { rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    /// One more row; missing cells stay empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let shape: Vec<(usize, bool)> = (0..columns)
            .map(|column| {
                let width = self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default();
                let numbers = self.rows.iter().skip(1).map(|row| cell(row, column)).filter(|text| !text.is_empty());
                (width, self.rows.len() > 1 && numbers.clone().count() > 0 && numbers.clone().all(|text| is_number(&text)))
            })
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (width, right)) in shape.iter().enumerate() {
                let text = cell(row, column);
                let gap = if column == 0 { "" } else { "  " };
                line.push_str(&if *right { format!("{gap}{text:>width$}") } else { format!("{gap}{text:<width$}") });
            }
            writeln!(f, "{}", line.trim_end())?;
            if index == 0 {
                let rule: Vec<String> = shape.iter().map(|(width, _)| "-".repeat(*width)).collect();
                writeln!(f, "{}", rule.join("  "))?;
            }
        }
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    text.trim_end_matches(['%', 'x']).replace([',', ' '], "").parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = TextTable::new(["item", "score", "note"]);
        table.row(["a", "0.5", ""]);
        table.row(["longer", "12.25", "clicked"]);
        table.row(["é"]);
        assert_eq!(table.to_string(), "item    score  note\n------  -----  -------\na         0.5\nlonger  12.25  clicked\né\n");
        assert_eq!(TextTable::new(["a"]).to_string(), "a\n-\n");
        assert_eq!(TextTable::default().to_string(), "");
    }
}
