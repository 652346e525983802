select auction, bidder, price, channel, url, date_time, extra
from (
  select *, row_number() over (partition by bidder, auction order by date_time desc, "offset" desc) as place from bid
) as placed
where place = 1
