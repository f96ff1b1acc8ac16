-- Healthy, Progressing and Degraded are what kstatus calls Current, InProgress and Failed. What a tenant or a workload of his does wrong
-- is in the message alone: it holds up no sync.
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "waiting for the operator to look at it"}
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is(kind, status)
  return conditions[kind] ~= nil and conditions[kind].status == status
end

if is("Reconciling", "True") then
  return {status = "Progressing", message = conditions.Reconciling.message}
end
if is("Stalled", "True") then
  return {status = "Degraded", message = conditions.Stalled.message}
end
if not is("Ready", "True") then
  return {status = "Progressing", message = conditions.Ready and conditions.Ready.message or "waiting for the operator"}
end

-- What is healthy may still have something to say.
if is("RestartHalted", "True") then
  return {status = "Healthy", message = conditions.RestartHalted.message}
end
if is("RestartTooLate", "True") then
  return {status = "Healthy", message = conditions.RestartTooLate.message}
end
if is("Conflicted", "True") then
  return {status = "Healthy", message = conditions.Conflicted.message}
end
if is("AllServed", "False") then
  return {status = "Healthy", message = conditions.AllServed.message}
end
return {status = "Healthy", message = conditions.Ready.message}
