//! Says where the Lua runtimes of this package are: the folder that its build script has filled.
#![forbid(unsafe_code)]

fn main() {
    println!("{}", env!("OUT_DIR"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn everything_was_built() {
        let out = Path::new(env!("OUT_DIR"));
        for (name, library) in [
            ("luajit-checked", "libluajit.a"),
            ("lua5.1", "liblua5.1.a"),
            ("lua5.2", "liblua5.2.a"),
            ("lua5.3", "liblua5.3.a"),
            ("lua5.4", "liblua5.4.a"),
        ] {
            assert!(out.join(name).join("lib").join(library).is_file(), "{name}");
            assert!(out.join(name).join("include/lua.h").is_file(), "{name}");
        }
    }
}
