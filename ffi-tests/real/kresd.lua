-- knot-resolver: commands come as names in queries.
local work = dofile(os.getenv "LAW_WORK")

net.listen("127.0.0.1", tonumber(os.getenv "LAW_PORT"))
cache.size = 10 * MB
-- There is no network.
trust_anchors.remove "."
modules.unload "priming"
modules.unload "ta_update"
policy.add(function(_, query)
  work.run(kres.dname2str(query.sname))
  return policy.REFUSE
end)
