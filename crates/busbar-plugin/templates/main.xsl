<?xml version="1.0" encoding="UTF-8"?>
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output omit-xml-declaration="yes"/>
  <!-- A setting of plugin.yaml, a part of the event (topic, key, time) or a tag of this name. -->
  <xsl:param name="factor" select="2"/>

  <xsl:template match="value">
    <value><xsl:value-of select=". * $factor"/></value>
  </xsl:template>

  <xsl:template match="@*|node()">
    <xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy>
  </xsl:template>
</xsl:stylesheet>
