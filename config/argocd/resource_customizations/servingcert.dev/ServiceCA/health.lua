-- Healthy, Progressing and Degraded are what kstatus calls Current, InProgress and Failed. A rotation is healthy, and so is one that is
-- paused: Suspended would hold up every sync for as long.
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
if is("ExpiringSoon", "True") then
  return {status = "Healthy", message = conditions.ExpiringSoon.message}
end
if is("Rotating", "True") then
  return {status = "Healthy", message = conditions.Rotating.reason .. ": " .. conditions.Rotating.message}
end
if is("TrustEstablished", "False") then
  return {status = "Healthy", message = conditions.TrustEstablished.message}
end
return {status = "Healthy", message = conditions.Ready.message}
