//! The name that a wrong one may have meant.

#![forbid(unsafe_code)]

/// The end of a message: the nearest of `names`, or nothing when none is near.
pub fn suggestion(wrong: &str, names: impl Iterator<Item = String>) -> String {
    let near = names.map(|name| (distance(wrong, &name), name));
    match near.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance < FAR) {
        Some((_, name)) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// From here on a name is another one.
const FAR: usize = 4;

/// The letters to insert, drop or replace. A name without its end, or with more behind it, is near.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    if one.len() > 12 && (other.starts_with(&one) || one.starts_with(&other)) {
        return 1;
    }
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], line + 1);
        for (column, other_letter) in other.chars().enumerate() {
            let replaced = corner + usize::from(letter != other_letter);
            corner = row[column + 1];
            row[column + 1] = replaced.min(corner + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let names = || ["EBBTIDE_CHECKED", "EBBTIDE_DECAY_MS", "EBBTIDE_RETAIN"].into_iter();
        let suggested = |wrong| suggestion(wrong, names().map(str::to_owned));
        assert_eq!(suggested("EBBTIDE_CHEKED"), "; did you mean EBBTIDE_CHECKED?");
        assert_eq!(suggested("EBBTIDE_DECAY"), "; did you mean EBBTIDE_DECAY_MS?");
        assert_eq!(suggested("ebbtide_retian"), "; did you mean EBBTIDE_RETAIN?");
        assert_eq!(suggested("EBBTIDE_BANANA_SPLIT"), "");
    }

    #[test]
    fn letters_are_counted() {
        for (one, other, count) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0)] {
            assert_eq!(distance(one, other), count);
        }
    }
}
