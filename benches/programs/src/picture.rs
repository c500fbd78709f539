//! Results as files of JSON, and the pictures that `benches/plot.py` draws of them.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_runtimes as runtimes;

use crate::Result;
use crate::report::quote;

/// Writes results to a file, in a folder that may be new, and draws them beside the file. Where the
/// pictures are is printed; results without pictures are no error, for Python may be missing.
pub fn publish(path: &Path, json: &str) -> Result<()> {
    write(path, json)?;
    match draw(path) {
        Ok(pictures) => pictures.iter().for_each(|path| println!("picture: {}", path.display())),
        Err(error) => eprintln!("no picture of {}: {error}", path.display()),
    }
    Ok(())
}

/// Writes a file, in a folder that may be new.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Draws the results in a file of JSON: the paths of the pictures.
pub fn draw(path: &Path) -> Result<Vec<PathBuf>> {
    let script = runtimes::repository().join("benches/plot.py");
    let output = Command::new("python3").arg(script).arg(path).output();
    let output = output.map_err(|error| format!("cannot run python3: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()),
        // The last line of a traceback names the error.
        false => {
            Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("").to_owned())
        }
    }
}

/// Curves, and what is said about them.
#[derive(Debug, Default)]
pub struct Picture {
    /// The heading.
    pub title: String,
    /// What is drawn, and its unit.
    pub subtitle: String,
    /// What one should know besides, line by line below the curves.
    pub footnotes: Vec<String>,
    /// The name of each curve, and its points in seconds and MB in order of time. The last curve,
    /// ebbtide's, is drawn on top.
    pub curves: Vec<(String, Vec<(f64, f64)>)>,
    /// Stretches of time to set off.
    pub bands: Vec<Band>,
    /// Remarks at points of the last curve, in seconds and MB, line by line.
    pub notes: Vec<((f64, f64), Vec<String>)>,
}

/// A stretch of time.
#[derive(Debug)]
pub struct Band {
    /// Its name, shown if there is room.
    pub name: String,
    /// In seconds.
    pub from: f64,
    /// In seconds.
    pub to: f64,
    /// How much its ground is set off, from 0 to 1.
    pub shade: f64,
}

impl Picture {
    /// The picture as a JSON object.
    pub fn json(&self) -> String {
        let curve = |(name, points): &(String, Vec<(f64, f64)>)| {
            let points = array(points, |&at| pair(at));
            format!("{{\"name\": {}, \"points\": {points}}}", quote(name))
        };
        let band = |band: &Band| {
            let Band { name, from, to, shade } = band;
            let name = quote(name);
            format!("{{\"name\": {name}, \"from\": {from}, \"to\": {to}, \"shade\": {shade}}}")
        };
        let note = |(at, lines): &((f64, f64), Vec<String>)| {
            format!("{{\"at\": {}, \"lines\": {}}}", pair(*at), array(lines, |line| quote(line)))
        };
        format!(
            "{{\n  \"title\": {},\n  \"subtitle\": {},\n  \"footnotes\": {},\n  \"curves\": {},\n  \
             \"bands\": {},\n  \"notes\": {}\n}}\n",
            quote(&self.title),
            quote(&self.subtitle),
            array(&self.footnotes, |line| quote(line)),
            array(&self.curves, curve),
            array(&self.bands, band),
            array(&self.notes, note)
        )
    }
}

fn array<T>(items: &[T], json: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(", "))
}

fn pair((seconds, megabytes): (f64, f64)) -> String {
    format!("[{seconds:.3}, {megabytes:.3}]")
}

/// The pictures of some results, by their names.
#[cfg(test)]
pub(crate) fn drawn(name: &str, json: &str) -> Vec<(String, String)> {
    let folder = std::env::temp_dir().join(format!("ebbtide-{name}-{}", std::process::id()));
    let path = folder.join(format!("{name}.json"));
    write(&path, json).expect("the folder is writable");
    let read = |path: &PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).expect("the picture is there"))
    };
    let pictures = draw(&path).expect("the results are whole").iter().map(read).collect();
    std::fs::remove_dir_all(folder).expect("the folder is there");
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(curves: &[&[(f64, f64)]]) -> Picture {
        let curve = |points: &&[(f64, f64)]| ("a & \"b\"".to_owned(), points.to_vec());
        Picture { curves: curves.iter().map(curve).collect(), ..Picture::default() }
    }

    fn svg(name: &str, picture: &Picture) -> String {
        drawn(name, &picture.json()).remove(0).1
    }

    #[test]
    fn examples_in_the_script_are_true() {
        let script = runtimes::repository().join("benches/plot.py");
        let output = Command::new("python3").args(["-B", "-m", "doctest"]).arg(script).output();
        let output = output.expect("python3 runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn every_curve_spans_the_drawing_area_and_has_its_name_and_last_value() {
        let svg = svg(
            "span",
            &picture(&[&[(0.0, 0.0), (10.0, 96.0)], &[(0.0, 0.0), (5.0, 100.0 / 3.0)]]),
        );
        // From 0 to 10 s, and from 0 to 100 MB.
        assert!(svg.contains("points=\"72.0,396.0 784.0,123.4\""), "{svg}");
        assert!(svg.contains("points=\"72.0,396.0 428.0,301.3\""), "{svg}");
        assert_eq!(svg.matches(">a &amp; \"b\"<").count(), 2);
        assert!(svg.contains(">96.0 MB<") && svg.contains(">33.3 MB<"));
    }

    #[test]
    fn a_band_without_room_for_its_name_has_none() {
        let band = |name: &str, from, to| Band { name: name.to_owned(), from, to, shade: 1.0 };
        let bands = vec![band("narrow", 0.0, 1.0), band("wide", 1.0, 100.0)];
        let svg = svg("bands", &Picture { bands, ..picture(&[&[(0.0, 0.0), (100.0, 96.0)]]) });
        assert!(svg.contains(">wide<") && !svg.contains("narrow"));
    }

    #[test]
    fn labels_at_the_ends_of_curves_keep_their_distance() {
        let svg =
            svg("labels", &picture(&[&[(0.0, 50.0), (9.0, 1.0)], &[(0.0, 50.0), (9.0, 2.0)]]));
        let at = |label: &str| -> f64 {
            let line = svg.lines().find(|line| line.contains(label)).expect(label);
            let from = line.split(" y=\"").nth(1).expect("a place");
            from.split('"').next().expect("an end").parse().expect("a number")
        };
        assert_eq!(at(">1.0 MB<") - at(">2.0 MB<"), 52.0);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        let path =
            std::env::temp_dir().join(format!("ebbtide-no-result-{}.json", std::process::id()));
        write(&path, "{}").expect("the folder is writable");
        let error = draw(&path).expect_err("nothing is drawn");
        std::fs::remove_file(&path).expect("it is there");
        assert!(error.contains("no results"), "{error}");
    }
}
