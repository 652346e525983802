with highest as (select max(price) as most, window_start, window_end from bid group by tumble(interval '10 seconds'))
select auction, price, bidder, date_time, extra
from bid join highest on price = most and date_time >= window_start and date_time < window_end
