-- pdns-recursor: commands come as names in queries.
local work = dofile(os.getenv "LAW_WORK")

function preresolve(query)
  work.run(query.qname:toString())
  query.rcode = pdns.REFUSED
  return true
end
