-- What a VM that is there before `http` holds: some, and garbage.
kept = {}
for i = 1, 300000 do
  kept[i % 30000] = { i, tostring(i) }
end
