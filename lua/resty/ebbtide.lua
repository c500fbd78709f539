-- The name by which OpenResty programs ask for it.
return require "ebbtide"
