-- The limits of several machines: see redis.py, which puts the constants before this. ARGV[1] has a step in each line:
-- what, now, the call's id, its caller's subject, and the numbers that the function of that name takes.

local callers = {}  -- by subject; what is read once for all steps, and written once behind them
local caller, cells, changed, now, call  -- of the step

local function get(place) return cells[place] or 0 end
local function set(place, number) cells[place] = number; changed[place] = true end

local function select_caller(subject)
  if not callers[subject] then
    local numbers = 'chatapi:limits:' .. subject
    callers[subject] = {
      subject = subject, numbers = numbers, open = numbers .. ':open', held = numbers .. ':held',
      has_key = string.sub(subject, 1, 4) == 'key:', lasts = (MINUTE + SKEW) * 1000,
      cells = {}, changed = {}, steps = {},
    }
  end
  caller = callers[subject]
  cells, changed = caller.cells, caller.changed
end

local function read()
  local flat = redis.call('HGETALL', caller.numbers)
  for i = 1, #flat, 2 do cells[tonumber(flat[i])] = tonumber(flat[i + 1]) end
  caller.is_read = true
end

local function roll(at)
  local oldest, first = math.floor(now) - MINUTE, get(at)
  if get(at + 1) == 0 then
    if first ~= oldest then set(at, oldest) end
  elseif oldest - first > RING or get(at + 2) > (now + SKEW) * 1000 then
    set(at, oldest); set(at + 1, 0); set(at + 2, 0)
    for place = at + 3, at + 2 + RING do if get(place) ~= 0 then set(place, 0) end end
  else
    while first <= oldest do
      local place = at + 3 + first % RING
      local cell = get(place)
      if first == oldest and oldest + (cell % 1024) / 1000 + MINUTE > now then break end
      if cell ~= 0 then
        set(at + 1, get(at + 1) - math.floor(cell / 1024)); set(place, 0)
      end
      first = first + 1
    end
    if first > get(at) then set(at, first) end
  end
end

local function add(at, amount)
  local second = math.floor(now)
  local place = at + 3 + second % RING
  local cell = get(place)
  local late = math.max(cell % 1024, math.floor((now - second) * 1000))
  set(place, (math.floor(cell / 1024) + amount) * 1024 + late)
  set(at + 1, get(at + 1) + amount)
  set(at + 2, math.max(get(at + 2), math.floor(now * 1000)))
end

local function drop(which)
  set(HELD, math.max(0, get(HELD) - tonumber(redis.call('HGET', caller.held, which) or '0')))
  redis.call('ZREM', caller.open, which)
  redis.call('HDEL', caller.held, which)
end

local function forget_expired()
  if caller.is_fresh then return end
  for _, which in ipairs(redis.call('ZRANGEBYSCORE', caller.open, '-inf', now)) do drop(which) end
  cells[COUNT] = redis.call('ZCARD', caller.open)
  caller.is_fresh = true
end

local function open_until(at)
  cells[COUNT] = get(COUNT) + redis.call('ZADD', caller.open, at, call)
end

-- What a decision is made from, as it was before this call changed it.
local function with_numbers(answer)
  local numbers = {}
  for i, place in ipairs(ANSWERED) do numbers[i] = get(place) end
  return answer .. string.format(TEXT, unpack(numbers))
end

-- All of it, for a wait is reckoned from it.
local function refused()
  local found = {with_numbers('0')}
  for place, number in pairs(cells) do
    if place >= REQUESTS then found[#found + 1] = string.format('%.0f %.0f', place, number) end
  end
  return table.concat(found, ' ')
end

local function admit(at, lasts, rpm, concurrency)
  if redis.call('ZSCORE', caller.open, call) then return with_numbers('1') end
  forget_expired()
  roll(REQUESTS)
  if (rpm >= 0 and get(REQUESTS + 1) + 1 > rpm) or (concurrency >= 0 and get(COUNT) + 1 > concurrency) then
    return refused()
  end
  local found = with_numbers('1')
  add(REQUESTS, 1)
  open_until(at)
  if not caller.has_key then redis.call('SET', 'chatapi:call:' .. call, caller.subject, 'PX', lasts) end
  caller.lasts = math.max(caller.lasts, lasts)
  return found
end

local function period(at, number, soon, used)
  if get(at) == number or get(at) == soon then return true end
  if used >= 0 then set(at, number); set(at + 1, used) end
  return used ~= -1
end

local function hold(at, tokens, tpm, tpd, tpmonth, day, next_day, in_day, month, next_month, in_month)
  if not (period(DAY, day, next_day, in_day) and period(MONTH, month, next_month, in_month)) then return '-1' end
  forget_expired()
  local before = tonumber(redis.call('HGET', caller.held, call) or '0')
  if before ~= 0 then set(HELD, get(HELD) - before); redis.call('HDEL', caller.held, call) end
  roll(REQUESTS)
  roll(TOKENS)
  local function over(limit, used) return limit >= 0 and used + get(HELD) + tokens > limit end
  if over(tpm, get(TOKENS + 1)) or over(tpd, get(DAY + 1)) or over(tpmonth, get(MONTH + 1)) then return refused() end
  local found = with_numbers('1')
  set(HELD, get(HELD) + tokens)
  open_until(at)
  redis.call('HSET', caller.held, call, tokens)
  return found
end

local function settle(tokens, day, month)
  if not caller.has_key then redis.call('DEL', 'chatapi:call:' .. call) end
  if not redis.call('ZSCORE', caller.open, call) then return '0' end
  drop(call)
  cells[COUNT] = get(COUNT) - 1
  if tokens > 0 then
    roll(TOKENS)
    add(TOKENS, tokens)
    if get(DAY) == day then set(DAY + 1, get(DAY + 1) + tokens) end
    if get(MONTH) == month then set(MONTH + 1, get(MONTH + 1) + tokens) end
  end
  return '1'
end

local function write()
  local fields = {}
  for place in pairs(changed) do
    if cells[place] == 0 then
      redis.call('HDEL', caller.numbers, place)
    else
      fields[#fields + 1] = place; fields[#fields + 1] = string.format('%.0f', cells[place])
    end
  end
  if #fields > 0 then redis.call('HSET', caller.numbers, unpack(fields)) end
  for _, key in ipairs({caller.numbers, caller.open, caller.held}) do
    if caller.lasts > redis.call('PTTL', key) then redis.call('PEXPIRE', key, caller.lasts) end
  end
end

local does = {admit = admit, hold = hold, settle = settle}

local function step(line, number)
  local given, numbers = {}, {}
  caller = nil
  for word in string.gmatch(line, '%S+') do given[#given + 1] = word end
  for place = 5, #given do numbers[#numbers + 1] = tonumber(given[place]) end
  local subject = given[4]
  now, call = tonumber(given[2]), given[3]
  if subject == ANY_SUBJECT then subject = redis.call('GET', 'chatapi:call:' .. call) or subject end
  select_caller(subject)
  caller.steps[#caller.steps + 1] = number
  if not caller.is_read then read() end
  return does[given[1]](unpack(numbers))
end

local function failed(found)
  return FAILED .. string.gsub(type(found) == 'table' and found.err or tostring(found), '%s+', ' ')
end

local answers = {}
for line in string.gmatch(ARGV[1], '[^\n]+') do
  local number = #answers + 1
  local done, found = pcall(step, line, number)
  answers[number] = done and found or failed(found)
  if not done and caller then caller.failure = answers[number] end
end
for subject in pairs(callers) do
  select_caller(subject)
  local done, found = pcall(caller.failure and error or write, caller.failure)
  for _, number in ipairs(done and {} or caller.steps) do answers[number] = caller.failure or failed(found) end
end
return table.concat(answers, '\n')
